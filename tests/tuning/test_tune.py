"""A whole tuning on this machine: killed, interrupted, two on one file, gone on with, used."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import onnx
import psutil
import pytest
from typer.testing import CliRunner

import pocketformer as pf
from pocketformer.compiler.cli import app
from pocketformer.compiler.tuning import scheduler, warmth
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.status import Status
from tests.compiler.tiny import one_sentence
from tests.device.program import TOKEN, Program, TrackerProgram
from tests.encoder import encoder, inputs
from tests.numerics.check import assert_close
from tests.tuning.dask_cluster import Cluster

COMMAND = [sys.executable, "-c", "from pocketformer.compiler.cli import main; main()", "tune"]
PATIENCE = 300.0    # seconds for what takes five on an idle machine and a hundred on a busy one
MORE = 7
KILLS = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "encoder.onnx"
    onnx.save(encoder(1, 16), path)
    return path


class BrokenOff(NamedTuple):
    """The file of two tunings at once, of which one was killed and one interrupted.

    `ended` is the latter; `started` are the processes that both had started.
    """

    records: Path
    ended: subprocess.CompletedProcess
    started: list[psutil.Process]


def start(model: Path, records: Path, seed: int) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(model), "--records", str(records), "--seed", str(seed), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )


@pytest.fixture(scope="module")
def broken_off(model, tmp_path_factory) -> BrokenOff:
    records = tmp_path_factory.mktemp("records") / "r.jsonl"
    killed, interrupted = (start(model, records, seed) for seed in (1, 2))
    try:
        wait_for_lines(records, MORE, killed)
        started = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
        wait_for_lines(records, lines_in(records) + MORE, interrupted)
        started += psutil.Process(interrupted.pid).children(recursive=True)
        interrupted.send_signal(signal.SIGINT)
        out, err = interrupted.communicate(timeout=PATIENCE)
    finally:
        for process in (killed, interrupted):
            end(process)
    ended = subprocess.CompletedProcess([], interrupted.returncode, out, err)
    return BrokenOff(records, ended, started)


def lines_in(records: Path) -> int:
    return records.read_bytes().count(b"\n") if records.exists() else 0


def wait_for_lines(records: Path, count: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + PATIENCE
    while lines_in(records) < count:
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


@pytest.fixture(scope="module")
def before(broken_off) -> str:
    return broken_off.records.read_text()


@pytest.fixture(scope="module")
def resumed(model, broken_off, before) -> tuple[pf.Tuning, list[Status]]:
    """The same tuning, which goes on for a few trials more."""
    heard: list[Status] = []
    trials = len(points_in(before)) + MORE
    tuning = pf.tune(model, records=broken_off.records, trials=trials, progress=heard.append)
    return tuning, heard


def points_in(text: str, confirmed: bool = False) -> Counter:
    """How often each point of each workload was a trial."""
    lines = [json.loads(line) for line in text.splitlines()]
    return Counter(
        json.dumps([line["workload"], line["point"]], sort_keys=True)
        for line in lines if line["confirmed"] == confirmed
    )


# What is left of tunings that were broken off


def test_ctrl_c_ends_with_130_and_says_what_was_found(broken_off, before):
    ended = broken_off.ended
    assert ended.returncode == 130, ended.stderr
    found = json.loads(ended.stdout)
    assert found["interrupted"]
    assert found["trials"] == len(points_in(before)) >= MORE
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
    records = Records.load(broken_off.records)
    assert not records.skipped
    assert len(records) > MORE


def test_a_tuning_that_is_killed_again_and_again_makes_no_trial_twice(model, tmp_path):
    records = tmp_path / "r.jsonl"
    for seed in range(KILLS):
        known = lines_in(records)
        process = start(model, records, seed)
        try:
            wait_for_lines(records, known + 1, process)
            time.sleep(random.Random(seed).uniform(0.0, 0.5))
        finally:
            end(process)
    assert not Records.load(records).skipped
    assert set(points_in(records.read_text()).values()) == {1}


def test_nothing_that_a_tuning_started_outlives_it(broken_off):
    """Builders and the device program end with who started them, also where that was killed."""
    assert broken_off.started
    assert not psutil.wait_procs(broken_off.started, PATIENCE)[1]


def test_a_tuning_goes_on_where_it_stood(resumed, broken_off, before):
    tuning, _ = resumed
    after = broken_off.records.read_text()
    assert after.startswith(before)
    trials = points_in(after)
    assert len(trials) == len(points_in(before)) + MORE == tuning.trials
    assert not [point for point in points_in(after[len(before):]) if point in points_in(before)]
    assert sum(task.known for task in tuning.tasks) == len(points_in(before))


def test_a_tuning_with_all_its_trials_made_makes_none(model, resumed, broken_off):
    records = broken_off.records
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
    assert 0.5 < sum(shares) <= 1 + 1e-12


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


# Elsewhere


def test_a_cluster_builds_and_all_devices_of_a_tracker_measure(model, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(warmth, "LONGEST", 0.0)     # the machine is busy, not hot
    monkeypatch.setattr(scheduler, "SECONDS", 0.1)
    monkeypatch.setattr(scheduler, "RACE_SECONDS", 0.1)
    heard: list[Status] = []
    with (
        TrackerProgram() as tracker,
        Program(tmp_path / "one", "pf", tracker.place),
        Program(tmp_path / "other", "pf", tracker.place),
        Cluster(tmp_path / "dask") as cluster,
    ):
        tuning = pf.tune(
            model, device=f"rpc://{tracker.place}/pf", trials=2 * MORE,
            records=tmp_path / "r.jsonl", cluster=cluster.address, token=TOKEN,
            progress=heard.append,
        )
    assert len(points_in((tmp_path / "r.jsonl").read_text())) == tuning.trials == 2 * MORE
    assert not any(record.error for record in tuning.records)
    assert len(tuning.compared) == 1
    assert max(len(status.devices) for status in heard) == 2
    assert pf.compile(model, records=tuning)


# What does not fit


@pytest.mark.parametrize(("options", "says"), [
    ({"trials": 0}, "trials is 0"),
    ({"strategy": "magic"}, "strategy is 'magic'"),
    ({"device": "pixel"}, "no device's address"),
    ({"records": "/nowhere/r.jsonl"}, "no folder /nowhere"),
    ({"records": "/proc/r.jsonl"}, "/proc/r.jsonl cannot be written"),
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
