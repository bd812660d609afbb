"""Devices that measure for a tuner, and what may happen to them meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.connection import connect
from pocketformer.compiler.device.tracker_client import Tracker
from pocketformer.compiler.errors import BadBundle, DeviceCrashed, DeviceLost, DeviceRefused
from pocketformer.compiler.tuning import device_slot, warmth
from pocketformer.compiler.tuning.bundle_files import pack, unpack
from pocketformer.compiler.tuning.device_slot import LOSSES
from pocketformer.compiler.tuning.devices import Devices
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.tuning.measure import Measured, Timing
from tests.device.jobs import SLOW, built, job, tar
from tests.device.program import TOKEN, Program, TrackerProgram
from tests.runtime.device_server import free_port

BRIEF = 0.02    # seconds of measuring: what it finds is not looked at here
LONG = 300.0    # seconds for what takes one or two on an idle machine


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with Program(tmp_path / "device") as started:
        yield started


@pytest.fixture(scope="module")
def tracker() -> Iterator[TrackerProgram]:
    """One for all: tests have keys of their own."""
    with TrackerProgram(free_port()) as started:
        yield started


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share their processor with others, whose work looks like heat."""
    monkeypatch.setattr(warmth, "LONGEST", 0.0)


@contextmanager
def devices(
    address: object, timeout: float = 20.0, build: Callable[[Job], Future[bytes]] = built
) -> Iterator[Devices]:
    opened = Devices(str(address), build, TOKEN, timeout)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def two(tmp_path: Path, tracker: TrackerProgram) -> Iterator[tuple[Program, Program, Devices]]:
    """Two devices behind a tracker, whose key is the folder's name."""
    key = tmp_path.name
    with (
        Program(tmp_path / "one", key, tracker.place) as one,
        Program(tmp_path / "other", key, tracker.place) as other,
    ):
        until(lambda: _registered(tracker, key) == 2)
        with devices(f"rpc://{tracker.place}/{key}") as opened:
            yield one, other, opened


def _registered(tracker: TrackerProgram, key: str) -> int:
    asked = Tracker(Address.parse(tracker.place))
    try:
        return [device.key for device in asked.devices()].count(key)
    finally:
        asked.close()


def submit(to: Devices, what: Job | None = None) -> Future[Measured]:
    what = what or job("")
    return to.submit(what, tar(what), BRIEF)


def begin(to: Devices, count: int = 1) -> list[Future[Measured]]:
    """As many jobs as there are devices, once each has begun with one that takes it a while."""
    long = job("", workload=SLOW)
    futures: list[Future[Measured]] = []

    def all_measure() -> bool:
        while sum(not future.done() for future in futures) < count:     # one was too quick
            futures.append(to.submit(long, tar(long), 1.0))
        return all(state == f"measuring {SLOW}" for _, state in to.status)

    until(all_measure)
    return futures[-count:]


def until(condition: Callable[[], Any], seconds: float = LONG) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return value


def whole(measured: Measured) -> bool:
    return all(isinstance(timing, Timing) and timing.us > 0 for timing in measured.timings)


# What is measured


def test_a_device_measures_all_points_of_a_job_and_keeps_nothing(program):
    with devices(program.address) as opened:
        assert (opened.count, opened.local) == (1, True)
        assert opened.status == [(f"pf at {program.address.place}", "free")]
        measured = submit(opened).result(LONG)
        assert whole(measured)
        assert measured.timings[0].ratio == 1.0
        assert measured.info.key == "pf"
        until(lambda: opened.status[0][1] == "free")
    assert program.stored == set()


def test_all_devices_behind_a_key_measure_at_once(tmp_path, tracker):
    with two(tmp_path, tracker) as (one, other, opened):
        assert opened.count == 2
        futures = [*begin(opened, 2), submit(opened)]
        assert {name for name, _ in opened.status} == {
            f"{tmp_path.name} at {each.address.place}" for each in (one, other)
        }
        assert all(whole(future.result(LONG)) for future in futures)
        for _ in range(4):      # by whichever slot is first: a device is there once
            assert whole(submit(opened).result(LONG))
            assert len({name for name, _ in opened.status}) == 2


def test_a_device_that_comes_later_joins_in(tmp_path, tracker):
    key = tmp_path.name
    with (
        Program(tmp_path / "one", key, tracker.place),
        devices(f"rpc://{tracker.place}/{key}") as opened,
    ):
        assert opened.count == 1
        with Program(tmp_path / "other", key, tracker.place):
            until(lambda: opened.count == 2)
            futures = begin(opened, 2)
            assert all(whole(future.result(LONG)) for future in futures)


def test_this_machine_is_a_device(tmp_path):
    with devices("host") as opened:
        assert opened.status == [("this machine", "free")]
        assert whole(submit(opened).result(LONG))
        (server,) = _own_programs()
        (future,) = begin(opened)
        server.kill()
        assert whole(future.result(LONG))
    assert not _own_programs()


def test_this_machines_program_ends_with_who_is_killed():
    code = """
import time
from pocketformer.compiler.tuning.devices import Devices
opened = Devices("host", None)
print("ready", flush=True)
time.sleep(60)
"""
    tuner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert tuner.stdout is not None
    assert tuner.stdout.readline() == "ready\n"
    (server,) = psutil.Process(tuner.pid).children()
    tuner.kill()
    tuner.communicate()
    assert not psutil.wait_procs([server], LONG)[1]


def _own_programs() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if each.name().startswith("pocketformer")]


# What may happen to a device


def test_a_device_that_is_lost_leaves_its_job_to_another(tmp_path, tracker):
    with two(tmp_path, tracker) as (one, _, opened):
        futures = begin(opened, 2)
        one.kill()
        assert all(whole(future.result(LONG)) for future in futures)
        third = submit(opened)
        assert whole(third.result(LONG))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
def test_a_job_is_measured_again_where_its_process(how, program):
    with devices(program.address, timeout=1.0) as opened:
        (future,) = begin(opened)
        program.child.send_signal(how)
        assert whole(future.result(LONG))


def test_a_device_that_stands_still_is_given_up_until_it_goes_on(program):
    with devices(program.address, timeout=1.0) as opened:
        (future,) = begin(opened)
        child = program.child
        program.process.send_signal(signal.SIGSTOP)
        child.suspend()
        until(lambda: opened.count == 0)
        assert opened.status[0][1] == "gone, waiting"
        program.process.send_signal(signal.SIGCONT)
        assert whole(future.result(LONG))


def test_when_all_are_gone_one_is_waited_for(tmp_path):
    with (
        Program(tmp_path / "device", port=free_port()) as program,
        devices(program.address) as opened,
    ):
        (future,) = begin(opened)
        program.kill()
        until(lambda: opened.status[0][1] == "gone, waiting")
        assert opened.count == 0
        with Program(tmp_path / "device", port=program.address.port):
            assert whole(future.result(LONG))
            assert opened.count == 1


def test_when_all_behind_a_tracker_are_gone_one_is_waited_for(tmp_path, tracker):
    with two(tmp_path, tracker) as (one, other, opened):
        futures = begin(opened, 2)
        one.kill()
        other.kill()
        until(lambda: opened.count == 0)
        with Program(tmp_path / "third", tmp_path.name, tracker.place):
            assert all(whole(future.result(LONG)) for future in futures)


def test_a_tracker_may_be_restarted(tmp_path, tracker):
    with two(tmp_path, tracker) as (_, _, opened):
        before = begin(opened, 2)
        tracker.kill()
        assert all(whole(future.result(LONG)) for future in before)
        while_gone = submit(opened)
        until(lambda: opened.count < 2)
        tracker.start()
        assert whole(while_gone.result(LONG))


# What may be wrong with a job


def test_a_kernel_that_crashes_the_device_fails_alone(program):
    with devices(program.address) as opened:
        measured = submit(opened, job("", "crash", "")).result(LONG)
        first, second, crashed, last = measured.timings
        assert all(isinstance(timing, Timing) for timing in (first, second, last))
        assert "ended with signal 6" in crashed
        assert whole(submit(opened).result(LONG))


def test_a_kernel_that_never_ends_fails_alone(program, monkeypatch):
    sessions = []

    def noting(*arguments):
        sessions.append(arguments)
        return connect(*arguments)

    monkeypatch.setattr(device_slot, "connect", noting)
    with devices(program.address, timeout=4.0) as opened:
        measured = submit(opened, job("hang", "")).result(LONG)
    assert len(sessions) == LOSSES + 1 + 3      # the whole, and each part once
    first, endless, last = measured.timings
    assert all(isinstance(timing, Timing) for timing in (first, last))
    assert "did not answer within 4 s" in endless


def test_nothing_is_measured_while_the_parts_of_a_job_are_built(program):
    builds: list[tuple[Job, Future[bytes]]] = []

    def begin_to_build(part: Job) -> Future[bytes]:
        builds.append((part, Future()))
        return builds[-1][1]

    with devices(program.address, build=begin_to_build) as opened:
        future = submit(opened, job("", "crash", ""))
        until(lambda: len(builds) == 4)
        until(lambda: opened.status[0][1] == "free")
        for part, build in builds[:3]:
            build.set_result(tar(part))
        time.sleep(0.2)
        assert not opened._rack.requests._waiting
        assert opened.status[0][1] == "free"
        part, build = builds[3]
        build.set_result(tar(part))
        assert "ended with signal 6" in future.result(LONG).timings[2]


def test_where_the_reference_crashes_nothing_is_measured(program):
    with devices(program.address) as opened:
        future = submit(opened, job("", reference="crash"))
        with pytest.raises(DeviceCrashed, match="ended with signal 6"):
            future.result(LONG)


def test_a_bundle_that_no_device_can_run_is_refused(program, tmp_path):
    bundle = unpack(tar(job("")), tmp_path)
    target = replace(bundle.manifest.target, isa=("neon",))
    other = pack(replace(bundle, manifest=replace(bundle.manifest, target=target)))
    with devices(program.address) as opened:
        with pytest.raises(DeviceRefused, match="lacks neon"):
            opened.submit(job(""), other).result(LONG)
        with pytest.raises(BadBundle, match="holds no bundle"):
            opened.submit(job(""), b"no tar").result(LONG)
        assert whole(submit(opened).result(LONG))


# Beginning and end


def test_what_is_no_device_is_refused_at_once(program, tracker):
    with pytest.raises(DeviceLost, match="nothing listens"):
        Devices("127.0.0.1:1", built, TOKEN)
    with pytest.raises(DeviceRefused, match="refuses the token"):
        Devices(str(program.address), built, "another-token")
    with pytest.raises(DeviceRefused, match="knows no device 'px'"):
        Devices(f"{tracker.place}/px", built, TOKEN)


def test_closing_breaks_off_and_cancels(program):
    with devices(program.address, timeout=60.0) as opened:
        futures = [submit(opened, job("hang")), submit(opened)]
        until(lambda: opened.status[0][1].startswith("measuring"))
        begun = time.monotonic()
        opened.close()
        assert time.monotonic() - begun < 30
        for future in [*futures, submit(opened)]:
            with pytest.raises(CancelledError):
                future.result(0)


def test_this_machines_program_is_not_started_again_after_the_end():
    with devices("host") as opened:
        pass
    with pytest.raises(DeviceLost, match="not needed any more"):
        opened._rack.where()
    assert not _own_programs()


def test_a_job_that_is_cancelled_before_its_turn_costs_nothing(program):
    with devices(program.address) as opened:
        (first,) = begin(opened)
        second, third = submit(opened), submit(opened)
        assert second.cancel()
        assert whole(first.result(LONG))
        assert whole(third.result(LONG))


# Heat


def test_a_device_that_got_slower_is_let_cool_down(program):
    """What it was in the first batch is changed, since no test can heat a processor."""
    with devices(program.address) as opened:
        submit(opened).result(LONG)
        name = f"pf at {program.address.place}"
        known = opened._rack.warmth[name]
        before = known._first["linear_4x64x32"]
        known._first["linear_4x64x32"] = before / 10
        known._patience = 2.0
        future = submit(opened)
        until(lambda: opened.status[0][1] == "cooling down after linear_4x64x32")
        assert whole(future.result(LONG))
        assert known._first["linear_4x64x32"] > before / 5      # it did not help: so fast it is
