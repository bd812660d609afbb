"""A whole tuning on this machine: killed, interrupted, two on one file, gone on with, used."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

import pocketformer as pf
from pocketformer.compiler.cli import app
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.status import Status
from tests.compiler.tiny import one_sentence
from tests.encoder import encoder, inputs
from tests.numerics.check import assert_close

COMMAND = [sys.executable, "-c", "from pocketformer.compiler.cli import main; main()", "tune"]
PATIENCE = 120.0    # seconds for what takes five on an idle machine
MORE = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "encoder.onnx"
    onnx.save(encoder(1, 16), path)
    return path


def start(model: Path, records: Path, seed: int) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(model), "--records", str(records), "--seed", str(seed), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


@pytest.fixture(scope="module")
def broken_off(model, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The file of two tunings at once, of which one was killed and one interrupted; the latter."""
    records = tmp_path_factory.mktemp("records") / "r.jsonl"
    killed, interrupted = (start(model, records, seed) for seed in (1, 2))
    try:
        until = time.monotonic() + PATIENCE
        while not (records.exists() and records.read_bytes().count(b"\n") >= MORE):
            assert time.monotonic() < until
            assert killed.poll() is None, killed.stderr.read()
            time.sleep(0.02)
        killed.kill()
        count = records.read_bytes().count(b"\n")
        while records.read_bytes().count(b"\n") < count + MORE:
            assert time.monotonic() < until
            time.sleep(0.02)
        interrupted.send_signal(signal.SIGINT)
        out, err = interrupted.communicate(timeout=PATIENCE)
    finally:
        for process in (killed, interrupted):
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
    return records, subprocess.CompletedProcess([], interrupted.returncode, out, err)


@pytest.fixture(scope="module")
def before(broken_off) -> str:
    return broken_off[0].read_text()


@pytest.fixture(scope="module")
def resumed(model, broken_off, before) -> tuple[pf.Tuning, list[Status]]:
    """The same tuning, which goes on for a few trials more."""
    heard: list[Status] = []
    trials = len(points_in(before)) + MORE
    tuning = pf.tune(model, records=broken_off[0], trials=trials, progress=heard.append)
    return tuning, heard


def points_in(text: str, confirmed: bool = False) -> Counter:
    """How often each point of each workload was a trial."""
    lines = [json.loads(line) for line in text.splitlines()]
    return Counter(
        json.dumps([line["workload"], line["point"]], sort_keys=True)
        for line in lines if line["confirmed"] == confirmed
    )


# What is left of tunings that were broken off


def test_ctrl_c_ends_with_130_and_says_what_was_found(broken_off):
    _, ended = broken_off
    assert ended.returncode == 130, ended.stderr
    found = json.loads(ended.stdout)
    assert found["interrupted"]
    assert found["trials"] >= MORE
    assert found["compared"] == []
    assert "the same command goes on" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_ctrl_c_tells_of_the_records_as_well(model, tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    for step in ("run", "result"):
        monkeypatch.setattr(f"pocketformer.compiler.tuning.tuner.Tuner.{step}", interrupted)
    records = str(tmp_path / "r.jsonl")
    ended = CliRunner().invoke(app, ["tune", str(model), "--records", records])
    assert ended.exit_code == 130
    assert "all records are in" in ended.stderr
    assert "nothing was written" not in ended.stderr


def test_two_tunings_leave_whole_lines_although_one_was_killed(broken_off):
    records = Records.load(broken_off[0])
    assert not records.skipped
    assert len(records) >= 2 * MORE


def test_nothing_that_a_tuning_started_outlives_it(broken_off):
    """Builders and the device program end with who started them, also where that was killed."""
    until = time.monotonic() + 10
    while left := _children_without_parent():
        assert time.monotonic() < until, left
        time.sleep(0.1)


def _children_without_parent() -> list[str]:
    listed = subprocess.run(
        ["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    ours = ("pocketformer.compiler.tuning.builder", "pocketformer_device --port 0 --key host")
    return [
        line for line in listed.splitlines()
        if line.split()[0] == "1" and any(word in line for word in ours)
    ]


def test_a_tuning_goes_on_where_it_stood(resumed, broken_off, before):
    tuning, _ = resumed
    after = broken_off[0].read_text()
    assert after.startswith(before)
    trials = points_in(after)
    assert len(trials) == len(points_in(before)) + MORE == tuning.trials
    assert not [point for point in points_in(after[len(before):]) if point in points_in(before)]
    assert sum(task.known for task in tuning.tasks) == len(points_in(before))


def test_a_tuning_with_all_its_trials_made_makes_none(model, resumed, broken_off):
    records = broken_off[0]
    before = records.read_text()
    again = pf.tune(model, records=records, trials=resumed[0].trials)
    assert records.read_text() == before
    assert _best(again) == _best(resumed[0])


def _best(tuning: pf.Tuning) -> dict[str, str]:
    return {task.key: task.best for task in tuning.tasks}


# What a tuning finds


def test_every_best_point_was_confirmed_in_a_last_race(resumed):
    tuning, _ = resumed
    assert all(task.confirmed for task in tuning.tasks if task.best)
    confirmed = [record for record in tuning.records if record.confirmed]
    assert {str(each.workload) for each in confirmed} >= {
        task.workload for task in tuning.tasks if task.best
    }


def test_shares_are_parts_of_the_models_time(resumed):
    shares = [task.share for task in resumed[0].tasks]
    assert all(share > 0 for share in shares)
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1


def test_the_tuned_model_is_compared_with_the_untuned_one(resumed):
    (compared,) = resumed[0].compared
    assert len(compared.default_ms) == len(compared.tuned_ms) > 10
    assert resumed[0].gain == pytest.approx(resumed[0].default_ms / resumed[0].tuned_ms)


def test_a_watcher_hears_of_every_trial(resumed):
    tuning, heard = resumed
    steps = [status.step for status in heard]
    assert {"searching", "racing the best points", "racing the tuned model"} <= set(steps)
    searching = [status for status in heard if status.step == "searching"]
    assert searching[0].trials == tuning.trials - MORE
    assert max(status.trials for status in heard) == heard[-1].of_trials == tuning.trials


def test_compile_takes_a_tuning(resumed, model):
    tuned = pf.compile(model, records=resumed[0])
    untuned = pf.compile(model, records=())
    given = inputs(1, 16)
    ours, theirs = pf.Session(tuned).run(given), pf.Session(untuned).run(given)
    assert_close([ours["hidden"]], [theirs["hidden"]])


# What does not fit


@pytest.mark.parametrize(("options", "says"), [
    ({"trials": 0}, "trials is 0"),
    ({"strategy": "magic"}, "strategy is 'magic'"),
    ({"device": "pixel"}, "no device's address"),
    ({"records": "/nowhere/r.jsonl"}, "no folder /nowhere"),
])
def test_what_cannot_be_is_refused_before_any_work(options, says):
    with pytest.raises(pf.BadInput, match=says) as error:
        pf.tune("not read.onnx", **options)
    one_sentence(error)


def test_a_device_that_is_not_there_is_one_sentence(model, tmp_path):
    result = CliRunner().invoke(app, [
        "tune", str(model), "--device", "rpc://127.0.0.1:9/none",
        "--records", str(tmp_path / "r.jsonl"),
    ])
    assert result.exit_code == 2
    assert "127.0.0.1:9" in result.stderr
    assert not (tmp_path / "r.jsonl").exists()
