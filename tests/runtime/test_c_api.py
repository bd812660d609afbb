"""The C API: the same bits and the same sentences as Session in Python, and no way to crash it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketformer.compiler.axes import evaluate
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.errors import BadDim, PocketformerError
from pocketformer.compiler.machine import cpus, this_machine
from pocketformer.compiler.manifest_records import Entry, LevelRecord, OperatorRecord, TargetRecord
from pocketformer.compiler.model import Dim
from pocketformer.compiler.session import Session
from pocketformer.runtime import toolchain
from tests.compiler.kinds import of_kinds
from tests.compiler.loops import Parallel, save_parallel
from tests.compiler.tiny import inputs
from tests.runtime import bundles, c_api
from tests.runtime.bundles import change_byte, make_link, resign, rewrite, truncate

Ask = Callable[..., Any]
LEVEL = LevelRecord("base", (), (), "generic", 128, 1, 100, 0)
HERE = TargetRecord(name="host", arch=this_machine().arch, os=this_machine().os)


def worker() -> ProcessPoolExecutor:
    """A process without TVM, which has loaded the runtime."""
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), c_api.load, (bundles.built().library,)
    )


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    with worker() as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result(60)


@pytest.fixture
def fresh() -> Iterator[Ask]:
    """Like `ask`, in a process that has done nothing yet."""
    with worker() as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Path:
    return bundles.save_tiny(folder)


@pytest.fixture
def damaged(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, for a test to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny.pf"))


def assert_same(
    found: list[tuple[tuple[int, ...], str, bytes]], wanted: dict[str, np.ndarray]
) -> None:
    assert [(shape, dtype) for shape, dtype, _ in found] == [
        (array.shape, array.dtype.name) for array in wanted.values()
    ]
    assert [data for _, _, data in found] == [array.tobytes() for array in wanted.values()]


# Running

@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("kind", "sizes"), [
    ("fixed", [{}]),
    ("buckets", [{"seq": seq} for seq in (8, 9, 16, 31, 32, 1)]),
    ("symbolic", [{"batch": 3, "seq": 21}, {"batch": 1, "seq": 64}]),
    ("embedded", [{"seq": 8}, {"seq": 11}, {"seq": 16}]),
])
def test_every_form_of_a_bundle_gives_the_bits_that_python_gives(
    kind: str, sizes: list[dict[str, int]], threads: int, folder: Path, ask: Ask
) -> None:
    path = folder / f"{kind}.pf"
    if not path.exists():
        bundles.save_encoder(folder, kind)
    session = Session(path, threads=threads)
    given = [bundles.values(session.inputs, **each) for each in sizes]
    found = ask(c_api.run, path, given, threads)
    for each, outputs in zip(given, found, strict=True):
        assert_same(outputs, session.run(each))


def test_all_dtypes_scalars_and_formulas_are_taken(folder: Path, ask: Ask) -> None:
    path = bundles.save_many_kinds(folder / "kinds")
    given = of_kinds()
    assert_same(ask(c_api.run, path, [given])[0], Session(path).run(given))


def test_more_sizes_than_are_kept_run(tiny: Path, ask: Ask) -> None:
    given = [inputs(2, seq) for seq in range(1, 30)]
    session = Session(tiny, threads=1)
    for each, outputs in zip(given, ask(c_api.run, tiny, given), strict=True):
        assert_same(outputs, session.run(each))


def test_inputs_and_outputs_are_described(tiny: Path, ask: Ask) -> None:
    text = ask(c_api.describe, tiny)
    assert '"name": "x", "dtype": "float32", "item_bytes": 4, "axes": ["batch", "seq", "8"]' in text
    assert '"name": "same"' in text


def test_an_output_stays_when_inputs_are_set_again(tiny: Path, ask: Ask) -> None:
    given = inputs(2, 5)
    for index in (0, 1):                        # 1 is an input that is handed back
        before, after = ask(c_api.kept_output, tiny, given, index)
        assert before == after
    assert before == given["x"].tobytes()


def test_sessions_in_two_threads_give_the_same_bits(folder: Path, tiny: Path, ask: Ask) -> None:
    other = folder / "other.pf"
    if not other.exists():
        bundles.save_tiny(folder, "other.pf", scale=2.0)
    given = inputs(8, 300)
    right = [Session(each, threads=2).run(given)["hidden"].tobytes() for each in (tiny, other)]
    for folders in ([tiny, tiny], [tiny, other]):
        found = ask(c_api.run_in_threads, folders, given, 50)
        assert set(found[0]) == {right[0]}
        assert set(found[1]) == {right[folders[1] == other]}
        assert [len(each) for each in found] == [50, 50]


def test_a_bundle_that_takes_anothers_place_runs_beside_it(tmp_path: Path, ask: Ask) -> None:
    first = bundles.save_embedded(tmp_path, "first.pf", scale=1.0)
    second = bundles.save_embedded(tmp_path, "second.pf", scale=3.0)
    given = inputs(1, 4)
    right = [Session(each).run(given)["hidden"].tobytes() for each in (first, second)]
    found = ask(c_api.replaced_while_open, first, second, given)
    assert found == [right[0], right[1], right[0]]


def test_closing_gives_all_memory_back(tiny: Path, ask: Ask) -> None:
    resident = ask(c_api.memory_of_reopening, tiny, inputs(8, 300), 60)
    assert resident[-1] < resident[20] + (1 << 20)


def test_a_profile_names_the_calls_in_order(tiny: Path, ask: Ask) -> None:
    first, second = ask(c_api.profile, tiny, inputs(2, 5))
    assert [name for name, _, _ in first] == [name for name, _, _ in second]
    starts = [start for _, start, _ in first]
    assert starts == sorted(starts)
    assert all(start <= end for _, start, end in first)
    assert second[0][1] > first[-1][2]
    session = Session(tiny)
    assert [name for name, _, _ in first] == [
        call[0] for call in session.profile(inputs(2, 5), 1)[0]
    ]


def test_kernels_find_the_runtime_that_an_app_loaded_for_itself(tiny: Path, fresh: Ask) -> None:
    assert not fresh(c_api.sees_symbol)
    assert fresh(c_api.sees_symbol_after_opening, tiny)


@pytest.mark.skipif(len(cpus()) < 2, reason="needs two CPUs")
@pytest.mark.parametrize(("asked", "variable", "right"), [
    (0, None, 1), (0, "2", 2), (1, "2", 1), (2, "1", 2), (4000, None, len(cpus())), (0, "x", 1),
])
def test_the_number_of_threads_is_chosen_as_in_python(
    asked: int, variable: str | None, right: int, tiny: Path, ask: Ask
) -> None:
    assert ask(c_api.thread_count, tiny, asked, variable) == right


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_parallel(Parallel, tmp_path_factory.mktemp("parallel"))


def ones() -> dict[str, np.ndarray]:
    return {"x": np.ones((64, 64), np.float32)}


@pytest.mark.skipif(len(cpus()) < 2, reason="needs two CPUs")
def test_a_child_of_fork_runs_what_it_inherited(parallel: Path, fresh: Ask) -> None:
    assert fresh(c_api.run_in_child, parallel, ones()) == (1, 2, True)


@pytest.mark.skipif(len(cpus()) < 2, reason="needs two CPUs")
def test_nothing_is_busy_after_a_run(parallel: Path, fresh: Ask) -> None:
    assert fresh(c_api.seconds_after_a_run, parallel, ones()) < 0.005    # TVM's threads: 0.05


# Refusals

DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no folder": shutil.rmtree,
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no library": lambda path: (path / "model.so").unlink(),
    "no weights": lambda path: (path / "weights.safetensors").unlink(),
    "library truncated": lambda path: truncate(path / "model.so"),
    "weights truncated": lambda path: truncate(path / "weights.safetensors", 100),
    "weights too long": lambda path: truncate(path / "weights.safetensors", -5),
    "manifest truncated": lambda path: truncate(path / "manifest.json", 20),
    "library changed": lambda path: change_byte(path / "model.so", 3000),
    "weights changed": lambda path: change_byte(path / "weights.safetensors", -1),
    "manifest changed": lambda path: rewrite(path, lambda text: text.replace(b"seq", b"sex")),
    "checksum changed": lambda path: rewrite(
        path, lambda text: re.sub(rb"[0-9a-f]{64}", b"0" * 64, text, count=1)),
    "library is a link": lambda path: make_link(path / "model.so"),
    "weights are a link": lambda path: make_link(path / "weights.safetensors"),
    "manifest is a link": lambda path: make_link(path / "manifest.json"),
    "library is a folder": lambda path: (
        (path / "model.so").unlink(), (path / "model.so").mkdir()),
    "library is a pipe": lambda path: (
        (path / "model.so").unlink(), os.mkfifo(path / "model.so")),
    "another format": lambda path: resign(path, format_version=2),
    "no format": lambda path: rewrite(path, lambda text: b'{"a": 1}'),
    "not UTF-8": lambda path: rewrite(path, lambda text: b'{"a": "\xff"}'),
    "a list": lambda path: rewrite(path, lambda text: b"[]"),
    "another system": lambda path: resign(path, target=replace(HERE, os="android")),
    "another processor": lambda path: resign(path, target=replace(HERE, arch="riscv64")),
    "missing instructions": lambda path: resign(
        path, target=replace(HERE, isa=("i9mm", "sve9"), features=("popcnt9",))),
    "two inputs of a name": lambda path: resign(
        path, inputs=2 * Bundle.load(path).manifest.inputs[:1]),
    "no entry": lambda path: resign(path, entries=()),
    "an entry of an unknown dimension": lambda path: resign(
        path, entries=(Entry("main", {"depth": 1}, ()),)),
    "an entry of an unknown weight": lambda path: resign(
        path, entries=(Entry("main", {}, ("v",)),)),
    "an unknown function": lambda path: resign(path, entries=(Entry("mane", {}, ("w", "c")),)),
    "an entry of an unknown level": lambda path: resign(
        path, entries=(Entry("main", {}, ("w", "c"), "avx9"),)),
    "a level without an entry": lambda path: resign(
        path, levels=(LEVEL,), entries=(Entry("main", {}, ("w", "c"), ""),)),
    "two levels of a name": lambda path: resign(
        path, levels=(LEVEL, LEVEL), entries=(Entry("main", {}, ("w", "c"), "base"),)),
    "a level that nothing enters": lambda path: resign(
        path, levels=(LEVEL, replace(LEVEL, name="more")),
        entries=(Entry("main", {}, ("w", "c"), "base"),)),
    "an empty range": lambda path: resign(path, dims={"batch": Dim(), "seq": BAD_RANGE}),
    "an unknown dimension": lambda path: resign(path, dims={"batch": Dim()}),
    "a path as a file": lambda path: resign(
        path, files={"../model.so": Bundle.load(path).manifest.files["model.so"]}),
}
BAD_RANGE = Dim()
object.__setattr__(BAD_RANGE, "high", 0)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_bundle_is_refused_with_pythons_sentence(
    damage: Callable[[Path], Any], damaged: Path, ask: Ask
) -> None:
    damage(damaged)
    with pytest.raises(PocketformerError) as error:
        Session(damaged)
    found, right = ask(c_api.refusal, damaged), str(error.value)
    if "is no JSON: Expecting" in right:        # where the fault lies is told in other words
        found, right = (text.partition("is no JSON")[:2] for text in (found, right))
    assert found == right


def test_another_tvm_is_refused(damaged: Path, ask: Ask) -> None:
    resign(damaged, tvm_version="0.1")
    assert ask(c_api.refusal, damaged).startswith(
        "the bundle was compiled with TVM 0.1, this runtime is TVM "
    )


@pytest.mark.parametrize(("text", "fault"), [
    (b"[" * 200000, "nested too deeply"),
    (b'{"a": 1, "a": 2}', "given twice"),
    (b'{"a": NaN}', "a value was expected"),
    (b'{"a": 99999999999999999999}', "too large"),
    (b'{"a": "\\ud800"}', "half of a character"),
    (b'{"a": "\x01"}', "control character"),
    (b"", "a value was expected"),
], ids=str)
def test_a_manifest_that_is_no_json_is_refused(
    text: bytes, fault: str, damaged: Path, ask: Ask
) -> None:
    rewrite(damaged, lambda _: text)
    message = ask(c_api.refusal, damaged)
    assert message.startswith(f"{damaged}/manifest.json is no JSON: ")
    assert fault in message


def test_more_about_operators_than_it_needs_is_left_alone(damaged: Path, ask: Ask) -> None:
    record = OperatorRecord("é\n\"\\", "MatMul", None, "n")
    resign(damaged, operators=(record,) * 300)
    assert ask(c_api.refusal, damaged) == ""


def test_the_last_level_that_the_processor_can_is_opened(damaged: Path, ask: Ask) -> None:
    better = replace(LEVEL, name="better", isa=tuple(sorted(this_machine().isa or ())))
    future = replace(LEVEL, name="future", isa=("avx9",), features=("popcnt9",))
    weights = ("w", "c")
    resign(damaged, levels=(LEVEL, better, future), entries=(
        Entry("missing", {}, weights, "base"), Entry("main", {}, weights, "better"),
        Entry("missing", {}, weights, "future"),
    ))
    assert ask(c_api.level, damaged, None) == Session(damaged).level == "better"
    assert ask(c_api.level, damaged, "future") == (
        "POCKETFORMER_LEVEL is 'future', this machine's processor lacks avx9, popcnt9"
    )
    assert ask(c_api.level, damaged, "x") == (
        "POCKETFORMER_LEVEL is 'x', the bundle has base, better, future"
    )


def test_a_bundle_of_one_level_is_the_base(tiny: Path, ask: Ask) -> None:
    assert ask(c_api.level, tiny, None) == ask(c_api.level, tiny, "base") == ""
    assert ask(c_api.level, tiny, "i8mm") == "POCKETFORMER_LEVEL is 'i8mm', the bundle has base"


def test_a_number_of_threads_below_zero_is_refused(tiny: Path, ask: Ask) -> None:
    assert ask(c_api.refusal, tiny, -1).startswith("threads is -1, it must be a whole number")


X, SHIFT = inputs()["x"], inputs()["shift"]


@pytest.mark.parametrize("given", [
    {"x": X},
    {},
    {"x": X[0], "shift": SHIFT},
    {"x": X[:, :, :7], "shift": SHIFT},
    {"x": X, "shift": SHIFT[:, :2]},
    {"x": X[:, :0], "shift": SHIFT[:, :0]},
    {"x": np.zeros((1, 5000, 8), "float32"), "shift": np.zeros((1, 5000), "float32")},
], ids=["missing", "none", "rank", "fixed axis", "two lengths", "empty", "too long"])
def test_inputs_that_do_not_fit_are_refused_with_pythons_sentence(
    given: dict[str, np.ndarray], tiny: Path, ask: Ask
) -> None:
    with pytest.raises(PocketformerError) as error:
        Session(tiny).run(given)
    first = str(error.value).replace("'x', 'shift' is", "'x' is")    # C tells of one at a time
    assert ask(c_api.run_refusals, tiny, [given]) == [first]


def test_a_name_or_dtype_that_does_not_fit_is_refused(tiny: Path, ask: Ask) -> None:
    given = [{"z": X}, {"x": X.astype("float64"), "shift": SHIFT}]
    assert ask(c_api.run_refusals, tiny, given) == [
        "the model has no input 'z'; it has 'x', 'shift'",
        "x has shape (1, 3, 8), which takes 96 bytes of float32, not 192",
    ]


def test_formulas_that_do_not_fit_are_refused_with_pythons_sentence(
    tmp_path: Path, ask: Ask
) -> None:
    path = bundles.save_many_kinds(tmp_path / "kinds")
    for given in (of_kinds(mask=8), of_kinds(n=10, mask=21)):
        with pytest.raises(PocketformerError) as error:
            Session(path).run(given)
        assert ask(c_api.run_refusals, path, [given]) == [str(error.value)]


def test_sizes_that_no_code_was_compiled_for_are_refused_with_pythons_sentence(
    damaged: Path, ask: Ask
) -> None:
    resign(damaged, entries=(
        Entry("main", {"seq": 4}, ("w", "c")),
        Entry("main_seq_4", {"seq": 4, "batch": 1}, ("c", "w")),
    ))
    with pytest.raises(PocketformerError) as error:
        Session(damaged).run(inputs())
    assert ask(c_api.run_refusals, damaged, [inputs()]) == [str(error.value)]


def test_formulas_are_computed_as_in_python(ask: Ask) -> None:
    sizes = {"seq": 7, "batch": 3}
    formulas = [
        "seq", "2*seq + 1", "seq//2", "(seq - 9)//2 + 5", "0 - -seq", "(0 - seq) % 4",
        "max(seq, batch, 12)", "min(seq, batch)*batch", "seq - 2 - 1", "12 // seq // 1", "((seq))",
        "seq % (0 - 4) + 4", "(0 - 9223372036854775807 - 1) % (0 - 1)",
        "9223372036854775807 % (0 - 10001) + 10001",
    ]
    assert ask(c_api.axis_sizes, formulas, sizes) == [evaluate(each, sizes) for each in formulas]


@pytest.mark.parametrize("formula", [
    "", "seq +", "seq seq", "seq ** 2", "seq / 2", "abs(seq)", "max()", "(seq", "2.5", "seq.x",
    "depth + 1", "seq // 0", "seq % 0", "x" * 501, "not seq",
])
def test_formulas_are_refused_with_pythons_sentence(formula: str, ask: Ask) -> None:
    with pytest.raises(BadDim) as error:
        evaluate(formula, {"seq": 7})
    assert ask(c_api.axis_sizes, [formula], {"seq": 7}) == [str(error.value)]


def test_sizes_past_64_bits_are_refused(ask: Ask) -> None:
    formulas = ["seq * seq * seq", "0 - seq"]
    assert ask(c_api.axis_sizes, formulas, {"seq": 2**40}) == [
        "the axis 'seq * seq * seq' is too large", f"the axis '0 - seq' is {-2**40}",
    ]


# NULL, errors, checksums

def test_null_is_refused_everywhere(ask: Ask) -> None:
    for name, (result, message) in ask(c_api.null_results).items():
        assert result in (None, -1), name
        assert message.endswith("is a null pointer"), name


def test_null_in_place_of_an_argument_is_refused(tiny: Path, ask: Ask) -> None:
    messages = ask(c_api.null_arguments, tiny)
    assert [message.endswith("is a null pointer") for message in messages[:6]] == [True] * 6
    assert messages[6:] == [
        "there is no input 9; the bundle has 2", "a rank is at least 0, not -1",
        "a rank is at most 64, not 2147483647",
        "there is no output -1; the bundle has 2", "there are no outputs before a run",
    ]


def test_each_thread_has_its_own_last_error(fresh: Ask) -> None:
    assert fresh(c_api.last_errors_by_thread, "/nowhere") == ("/nowhere does not exist", "")


def test_every_version_of_sha256_is_right(tmp_path: Path) -> None:
    sources = Path(bundles.__file__).parents[2] / "runtime/src"
    tools = toolchain.find(this_machine().arch, "linux", None)
    library = tmp_path / "vectors.so"
    vectors = Path(bundles.__file__).with_name("sha256_vectors.cc")
    subprocess.run(
        [*tools.cxx, "-std=c++20", "-O2", "-shared", "-fPIC", f"-I{sources}",
         *map(str, sources.glob("sha256*.cc")), str(vectors), "-o", str(library)],
        env={**os.environ, **tools.environment}, check=True,
    )
    found: list[str] = []
    ctypes.CDLL(str(library)).sha256_vectors(
        ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda line: found.append(line.decode()))
    )
    assert {line.split()[0] for line in found} >= {"plain"}
    for line in found:
        version, length, digest = line.split()
        text = bytes(ord("a") + i % 23 for i in range(int(length)))
        assert digest == sha256(text).hexdigest(), (version, length)
