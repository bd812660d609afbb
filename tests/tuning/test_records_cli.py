"""`pocketformer records`, as a shell sees it."""

import json
import logging

import pytest
from typer.testing import CliRunner

from pocketformer.compiler.cli import app
from pocketformer.compiler.cli.common import remarks
from pocketformer.compiler.tuning.record import DeviceNote
from pocketformer.compiler.tuning.record_file import RecordFile
from pocketformer.compiler.tuning.records import Records
from pocketformer.schedules.workloads import Linear, Softmax
from tests.tuning.examples import record

SOFTMAX = record(workload=Softmax(64, 128), core="znver1", target="elsewhere")
RECORDS = [record(1), record(2, median_us=80.0, confirmed=True), SOFTMAX]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "r.jsonl"
    RecordFile(path).append(RECORDS)
    return path


def records(*arguments):
    done = CliRunner().invoke(app, ["records", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done


def shown(*arguments):
    return json.loads(records(*arguments, "--json").stdout)["records"]


def test_show_lists_all_records(file):
    text = records("show", file).stdout
    first, fast, softmax = text.splitlines()[1:]
    assert "linear_128x1536x384_bias_gelu" in first
    assert "Gemm" in first
    assert "80" in fast
    assert "1.500x" in fast
    assert "confirmed" in fast
    assert "softmax_64x128" in softmax
    assert "znver1" in softmax
    assert [each["gain"] for each in shown("show", file)] == [1.2, 1.5, 1.2]


@pytest.mark.parametrize(("choice", "count"), [
    (["--workload", "softmax"], 1), (["--workload", "1536"], 2), (["--core", "znver1"], 1),
    (["--target", "host/cpu"], 2), (["--target", "host", "--workload", "softmax"], 0),
])
def test_show_takes_a_choice(file, choice, count):
    assert len(shown("show", file, *choice)) == count


def test_show_tells_what_is_not_used(file):
    unused = [
        record(point=record(1, workload=Linear(1, 64, 64)).point),
        record(1, tvm="0.1"),
        record(1, device=DeviceNote("phone", "cortex-a76", emulated=True)),
        record(1, median_us=None, default_us=None, error="[red]signal 11[/]\x1b[2J"),
    ]
    RecordFile(file).append(unused)
    file.write_text(file.read_text() + "noise\n")
    said = [each["note"] for each in shown("show", file)]
    assert said[:3] == ["", "", ""]
    assert said[3] == "no longer a point of its space"
    assert said[4].startswith("of TVM 0.1, ")
    assert said[5] == "timed on an emulator"
    assert said[6].startswith("failed: ")
    done = records("show", file)
    assert "[red]signal 11[/]?[2J" in done.stdout
    assert "r.jsonl, line 8 is not used: the record is no JSON" in done.stderr.replace("\n", "")


def test_what_a_file_says_does_not_command_the_terminal(capsys):
    """Nor is it markup, wherever it is quoted."""
    with remarks("pocketformer.records"):
        logging.getLogger("pocketformer.records").warning("of \x1b[2J[red]\nx")
    assert capsys.readouterr().err == "note: of ?[2J[red]\nx\n"


def test_best_shows_one_record_a_workload_and_core(file):
    assert [each["median_us"] for each in shown("best", file)] == [80.0, 100.0]
    assert [each["core"] for each in shown("best", file)] == [RECORDS[1].core, "znver1"]


def test_export_writes_what_is_chosen(file, tmp_path):
    output = tmp_path / "best.jsonl"
    records("export", file, "-o", output, "--best", "--workload", "linear")
    assert Records.load(output).records == (RECORDS[1],)
    records("export", file, "-o", tmp_path / "all.jsonl")
    assert Records.load(tmp_path / "all.jsonl").records == tuple(RECORDS)


def test_export_replaces_no_records(file):
    done = CliRunner().invoke(app, ["records", "export", str(file), "--best", "-o", str(file)])
    assert done.exit_code == 2
    assert "r.jsonl holds records already" in done.stderr.replace("\n", "")
    assert Records.load(file).records == tuple(RECORDS)


def test_the_best_tell_which_points_fail_as_well(file, tmp_path):
    crashed = record(5, median_us=None, default_us=None, error="signal 11")
    RecordFile(file).append([crashed, crashed])
    records("export", file, "-o", tmp_path / "best.jsonl", "--best")
    assert Records.load(tmp_path / "best.jsonl").records == (RECORDS[1], SOFTMAX, crashed)


def test_merge_adds_each_record_once(file, tmp_path):
    output = tmp_path / "all.jsonl"
    RecordFile(output).append([record(3), RECORDS[1]])
    records("merge", output, file, file)
    assert Records.load(output).records == (record(3), RECORDS[1], RECORDS[0], SOFTMAX)


def test_prune_keeps_the_best(file):
    done = records("prune", file, "--keep", 1, "--json")
    assert json.loads(done.stdout) == {"file": str(file), "lines_before": 3, "lines": 2}
    assert Records.load(file).records == (RECORDS[1], SOFTMAX)


@pytest.mark.parametrize("command", [
    ["show", "none"], ["best", "none"], ["export", "none", "-o", "out"], ["merge", "out", "none"],
    ["prune", "none"],
])
def test_a_missing_file_is_one_sentence(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["records", *command])
    assert done.exit_code == 2
    assert done.stderr == "error: records none cannot be read: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_not_written_over(file, tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\x08\x07model")
    for command in (["merge", model, file], ["export", file, "-o", model], ["prune", model]):
        done = CliRunner().invoke(app, ["records", *map(str, command)])
        assert done.exit_code == 2
        assert "is no file of records" in done.stderr
    assert model.read_bytes() == b"\x08\x07model"
