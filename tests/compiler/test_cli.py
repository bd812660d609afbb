"""The command line as a shell sees it: output, errors, exit codes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from pocketformer.compiler.cli import app
from pocketformer.compiler.cli.common import describe, guarded, key_values
from pocketformer.compiler.errors import PocketformerError

COMMAND = [sys.executable, "-c", "from pocketformer.compiler.cli import main; main()"]


def cli(*arguments):
    """The command in this process, where TVM is imported but once."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def shell(*arguments):
    """The command in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def sentence(done):
    """The one line on stderr of a command that failed because of what it was given."""
    assert done.exit_code == 2, done.stderr
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note:")]
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """softmax(x @ w) with the free dimension `seq`, as an ONNX file."""
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype("float32")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], name="product"),
            helper.make_node("Softmax", ["product"], ["y"], name="soft"),
        ],
        "soft",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["seq", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["seq", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path_factory.mktemp("model") / "soft.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def compiled(model, tmp_path_factory):
    """What `compile --explain --json` printed, and the bundle that it wrote."""
    output = tmp_path_factory.mktemp("compiled") / "soft.pf"
    done = cli("compile", model, "-o", output, "--dim", "seq=1..16", "--explain", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), output


# Help, version, targets


def test_version():
    assert cli("--version").stdout.startswith("pocketformer 0.")


def test_help_imports_no_heavy_library():
    code = f"{COMMAND[2].split(';')[0]}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tvm", "tvm_ffi", "torch", "onnx", "onnxruntime"} & set(done.stdout.split())


def test_without_a_command_shows_the_commands():
    done = cli()
    for command in ("compile", "run", "bench", "inspect", "targets"):
        assert command in done.stdout + done.stderr


def test_targets_lists_all_names():
    from pocketformer import targets

    listed = {line.split()[0] for line in cli("targets").stdout.splitlines() if line[:1] != " "}
    assert set(targets.available()) <= listed


def test_targets_json_has_one_record_a_target():
    from pocketformer import targets

    records = json.loads(cli("targets", "--json").stdout)
    assert [record["name"] for record in records] == targets.available()


def test_one_target_is_shown_in_full():
    record = json.loads(cli("targets", "arm64-android", "--json").stdout)
    assert (record["arch"], record["os"]) == ("aarch64", "android")
    assert "neon" in cli("targets", "arm64-android").stdout


def test_unknown_target_suggests_near_ones():
    assert "arm64-android" in sentence(cli("targets", "arm64-andriod"))


def test_the_shell_sees_exit_code_2_and_one_line():
    done = shell("targets", "arm64-andriod")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_misspelt_option_has_exit_code_2():
    assert shell("compile", "--tagret", "host").returncode == 2


# Compile


def test_compile_writes_a_bundle_and_prints_only_json(compiled):
    record, output = compiled
    assert record["bundle"] == str(output)
    assert record["dims"]["seq"] == {"low": 1, "high": 16, "buckets": []}
    assert {path.name for path in output.iterdir()} >= {"manifest.json", "model.so"}


def test_explain_names_every_operator(compiled):
    record, _ = compiled
    assert [each["name"] for each in record["operators"]] == ["product", "soft"]
    assert all(each["kernel"] or each["note"] for each in record["operators"])


def test_compile_shows_a_table(model, tmp_path):
    done = cli("compile", model, "-o", tmp_path / "[red]t.pf", "--dim", "seq=4", "--explain")
    assert done.exit_code == 0, done.stderr
    assert "MatMul" in done.stdout
    assert "Softmax" in done.stdout
    assert "[red]t.pf in" in done.stderr.replace("\n", "")


def test_output_is_named_after_the_model(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("compile", model).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["soft.pf"]


def test_unknown_target_is_told_before_the_model_is_read(tmp_path):
    line = sentence(cli("compile", tmp_path / "none.onnx", "--target", "pixel88"))
    assert "pixel8" in line


def test_missing_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "none.onnx" in sentence(cli("compile", tmp_path / "none.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_not_an_onnx_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    assert "text.onnx" in sentence(cli("compile", path))


def test_truncated_onnx_file(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "short.onnx"
    path.write_bytes(model.read_bytes()[:-40])
    assert "short.onnx" in sentence(cli("compile", path))


def test_unknown_dimension_lists_the_known(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = sentence(cli("compile", model, "--dim", "length=4"))
    assert "length" in line
    assert "seq" in line


@pytest.mark.parametrize("text", ["seq", "=4", "seq=", "seq=0", "seq=a..b", "seq=1..9999999999"])
def test_misspelt_dimension(model, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence(cli("compile", model, "--dim", text))
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_no_bundle_is_kept(model, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("mine")
    sentence(cli("compile", model, "-o", tmp_path / "data"))
    assert (tmp_path / "data" / "precious.txt").read_text() == "mine"


def test_a_place_that_is_taken_is_told_before_the_model_is_read(tmp_path):
    (tmp_path / "taken").write_text("mine")
    line = sentence(cli("compile", tmp_path / "none.onnx", "-o", tmp_path / "taken"))
    assert "taken exists and is no bundle" in line


def test_debug_shows_the_traceback(tmp_path):
    done = shell("compile", tmp_path / "none.onnx", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


# Run


def test_run_gives_what_numpy_gives(compiled, model, tmp_path):
    x = np.random.default_rng(1).standard_normal((5, 8)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    given, output = f"x={tmp_path / 'x.npy'}", tmp_path / "out.npz"
    done = cli("run", compiled[1], "--input", given, "-o", output, "--json")
    assert done.exit_code == 0, done.stderr
    (weight,) = onnx.load(model).graph.initializer
    powers = np.exp(x @ numpy_helper.to_array(weight))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(output)["y"], expected, atol=1e-5)
    assert json.loads(done.stdout)["outputs"]["y"]["shape"] == [5, 8]


def test_run_takes_an_npz_file(compiled, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.ones((3, 8), "float32"))
    done = cli("run", compiled[1], tmp_path / "in.npz")
    assert done.exit_code == 0, done.stderr
    assert "3 x 8" in done.stdout


def test_run_without_inputs_makes_some_up_and_says_so(compiled):
    done = cli("run", compiled[1], "--dim", "seq=7", "--json")
    assert json.loads(done.stdout)["outputs"]["y"]["shape"] == [7, 8]
    assert "made up" in done.stderr


def test_run_refuses_a_size_beyond_the_range(compiled):
    assert "1..16" in sentence(cli("run", compiled[1], "--dim", "seq=17"))


def test_run_names_what_is_wrong_with_an_input(compiled, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.ones((3, 8), "float64"))
    line = sentence(cli("run", compiled[1], tmp_path / "in.npz", "-o", tmp_path / "out.npz"))
    assert "float64" in line
    assert "float32" in line
    assert not (tmp_path / "out.npz").exists()


def test_run_refuses_a_file_that_holds_no_arrays(compiled, tmp_path):
    (tmp_path / "in.npz").write_text("text")
    assert "in.npz" in sentence(cli("run", compiled[1], tmp_path / "in.npz"))


def test_run_refuses_a_changed_bundle(saved):
    library = saved / "model.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    assert "model.so" in sentence(cli("run", saved))


# Inspect


def test_inspect_shows_a_bundle(compiled):
    record = json.loads(cli("inspect", compiled[1], "--json").stdout)
    assert record["kind"] == "bundle"
    assert record["inputs"][0]["shape"] == ["seq", 8]
    shown = cli("inspect", compiled[1]).stdout
    assert "seq x 8" in shown
    assert "1..16" in shown


def test_inspect_counts_the_operators_of_a_model(model):
    record = json.loads(cli("inspect", model, "--json").stdout)
    assert record["operators"] == {"MatMul": 1, "Softmax": 1}
    assert record["weights"] == {"count": 1, "bytes": 8 * 8 * 4}


def test_inspect_shows_a_bundle_for_another_machine(model, tmp_path):
    bundle = tmp_path / "phone.pf"
    done = cli("compile", model, "--target", "arm64-android", "-o", bundle)
    assert done.exit_code == 0, done.stderr
    assert "aarch64 android" in cli("inspect", bundle).stdout
    assert "this machine" in sentence(cli("run", bundle))


# Bench


def test_bench_races_a_model_with_onnxruntime(model):
    pytest.importorskip("onnxruntime")
    done = cli("bench", model, "--dim", "seq=4", "--runs", "12", "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert [each["label"] for each in record["engines"]] == ["pocketformer", "onnxruntime"]
    assert all(each["calls"] == 12 for each in record["engines"])
    assert record["sizes"] == {}
    assert record["largest_error"] < 1e-5


def test_bench_times_a_bundle_alone_and_says_so(compiled):
    done = cli("bench", compiled[1], "--dim", "seq=4", "--runs", "3")
    assert done.exit_code == 0, done.stderr
    assert "pocketformer" in done.stdout
    assert "--against" in done.stderr


# Errors in general


def test_our_own_error_has_exit_code_1_and_points_to_debug():
    text, code = describe(ZeroDivisionError("division by zero"))
    assert code == 1
    assert "--debug" in text
    assert "ZeroDivisionError" in text


def test_a_missing_file_is_the_users_error():
    with pytest.raises(OSError, match="nowhere") as caught:
        Path("/nowhere/at/all").read_bytes()
    assert describe(caught.value) == ("No such file or directory: /nowhere/at/all", 2)


def test_interruption_has_exit_code_130():
    @guarded
    def interrupted() -> None:
        raise KeyboardInterrupt

    @guarded
    def interrupted_import() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("as Python 3.11 does in __set_name__") from error

    for command in (interrupted, interrupted_import):
        with pytest.raises(typer.Exit) as caught:
            command()
        assert caught.value.exit_code == 130


def interrupted_import(model, folder):
    """A compilation in `folder` that gets Ctrl-C while it imports TVM, and what it says."""
    folder.mkdir()
    process = subprocess.Popen(
        [*COMMAND, "compile", str(model)], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtvm" not in maps.read_text() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return process, process.communicate(timeout=300)[1]


def test_ctrl_c_leaves_nothing_behind(model, tmp_path):
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        process, stderr = interrupted_import(model, folder)
        if "Exception ignored" not in stderr:       # as Python does within callbacks of its own
            break
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(folder.iterdir()) == []


def test_key_values_names_the_option():
    with pytest.raises(PocketformerError, match="--dim takes NAME=VALUE"):
        key_values(["seq"], "--dim")
