"""Timing the points of a job, here and on a device."""

import time
from dataclasses import replace

import pytest

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.errors import DeviceFailed
from pocketformer.compiler.instrument import TimedCall
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.bundle_files import unpack
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.tuning.kernel_bundle import build
from pocketformer.compiler.tuning.measure import LEAST_ROUNDS, _rounds, _timings, measure
from pocketformer.schedules.cpu import template_of
from pocketformer.schedules.workloads import Linear
from tests.device.program import TOKEN, Program
from tests.tuning.jobs import HOST

LAYER = Linear(64, 192, 192, bias=True)


@pytest.fixture(scope="module")
def job() -> Job:
    """The default, the same again, and a tile that is several times as slow."""
    default = template_of(LAYER).default(HOST, LAYER)
    slow = replace(default, rows=1, columns=16, panel=16)
    return Job(HOST, LAYER, (), (default, default, slow), 1 << 20)


@pytest.fixture(scope="module")
def bundle(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return unpack(build(job), tmp_path_factory.mktemp("bundle"))


def test_a_slow_tile_is_found_out(job, bundle):
    with Session(bundle, threads=1) as session:
        measured = measure(session, job)
    reference, same, slow = measured.timings
    assert reference == same
    assert reference.ratio == 1.0
    assert slow.ratio > 1.2
    assert slow.us == pytest.approx(reference.us * slow.ratio)
    assert (measured.threads, measured.info) == (1, None)


def test_a_device_measures_as_this_process_does(job, bundle, tmp_path):
    with Program(tmp_path / "device") as program, Session(
        bundle, 1, device=str(program.address), token=TOKEN
    ) as session:
        measured = measure(session, job)
    assert measured.timings[2].ratio > 1.2
    assert measured.info is not None
    assert measured.info.key == "pf"


def test_it_ends_once_the_spread_is_small_enough(job, bundle):
    with Session(bundle, threads=1) as session:
        begun = time.monotonic()
        early = measure(session, job, target_spread=1.0, seconds=60)
        between = time.monotonic()
        measure(session, job, target_spread=0.0, seconds=1)
        end = time.monotonic()
    assert early.timings[0].runs >= LEAST_ROUNDS
    assert between - begun < 30
    assert 0.8 < end - between < 30


def test_a_ratio_compares_calls_of_one_round():
    # The clock falls to half after some rounds: the times double, their ratio does not.
    slow_down = [100.0] * 10 + [200.0] * 10
    times = {"a": slow_down, "b": [0.9 * us for us in slow_down]}
    first, second = _timings(times, ["a", "b"])
    assert (first.ratio, second.ratio) == (1.0, pytest.approx(0.9))
    assert second.us == pytest.approx(0.9 * 150)
    assert second.spread < 1e-9


def test_an_outlier_changes_nothing():
    times = {"a": [100.0] * 20, "b": [110.0] * 19 + [5000.0]}
    assert _timings(times, ["a", "b"])[1].ratio == pytest.approx(1.1)


def test_more_rounds_make_one_surer():
    noisy = [100.0, 104.0, 96.0, 108.0, 92.0]
    few = {"a": [100.0] * 5, "b": noisy}
    many = {"a": [100.0] * 80, "b": noisy * 16}
    assert _timings(many, ["a", "b"])[1].spread == pytest.approx(
        _timings(few, ["a", "b"])[1].spread / 4
    )


def test_a_profile_that_lacks_calls_is_refused():
    run = [TimedCall("a", 0, 10), TimedCall("b", 10, 20), TimedCall("a", 20, 30)]
    with pytest.raises(DeviceFailed, match="lacks some of their calls"):
        _rounds([run], ["a", "b"])
    with pytest.raises(DeviceFailed, match="lacks some of their calls"):
        _rounds([[]], ["a", "b"])
