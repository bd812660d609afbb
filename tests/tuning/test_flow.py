"""Proposals on their way through builders and devices, some of which are not there."""

from collections.abc import Iterable
from concurrent.futures import Future

import pytest

from pocketformer.compiler.errors import BuildFailed, BuildLost, DeviceLost
from pocketformer.compiler.tuning.flow import Flow, Outcome, Proposal
from pocketformer.compiler.tuning.job import MOST_POINTS, Job
from pocketformer.compiler.tuning.measure import Measured, Timing
from pocketformer.schedules.workloads import Norm
from tests.tuning.jobs import HOST

MANY = 5


class Builders:
    """Builds all but jobs with the points in `bad`, which end in `error`."""

    def __init__(
        self, bad: Iterable[int] = (), error: type[Exception] = BuildFailed, workers: int = 2
    ) -> None:
        self.bad, self.error, self.workers = set(bad), error, workers
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> Future[bytes]:
        self.jobs.append(job)
        future: Future[bytes] = Future()
        if self.bad & set(job.points):
            future.set_exception(self.error(f"{job.points} cannot be built"))
        else:
            future.set_result(b"".join(bytes([point]) for point in job.points))
        return future


class Devices:
    """Measures what was built, and loses itself with those in `bad`."""

    def __init__(self, count: int = 1, local: bool = False, bad: Iterable[int] = ()) -> None:
        self.count, self.local, self.bad = count, local, set(bad)

    def submit(self, job: Job, tar: bytes, seconds: float = 1.0) -> Future[Measured]:
        assert tuple(tar) == job.points
        future: Future[Measured] = Future()
        if self.bad & set(job.points):
            future.set_exception(DeviceLost("it is gone"))
        else:
            future.set_result(Measured(tuple(Timing(9.0, 1.0, 0.0, 9) for _ in tar), 1, None))
        return future


def proposals(count: int, trials: int = MOST_POINTS - 1) -> list[Proposal]:
    """Point 0 is the reference of all; no two have a trial in common."""
    return [
        Proposal(None, Job(HOST, Norm(4, 32, "rms", 1e-6), (), (0, *points)), 1.0)
        for start in range(count)
        if (points := range(1 + start * trials, 1 + (start + 1) * trials))
    ]


def run(builders: Builders, devices: Devices, given: list[Proposal]) -> list[Outcome]:
    waiting = iter(given)
    return list(Flow(builders, devices, lambda: None).run(lambda: next(waiting, None)))


def points(outcomes: Iterable[Outcome]) -> list[int]:
    return sorted(point for outcome in outcomes for point in outcome.proposal.trials)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(("workers", "count"), [(2, 1), (0, 1), (2, 0), (0, 0)])
def test_all_proposals_come_through_whoever_is_there(local, workers, count):
    """A cluster's workers and a tracker's devices come and go; both wait for one themselves."""
    given = proposals(MANY)
    outcomes = run(Builders(workers=workers), Devices(count, local), given)
    assert points(outcomes) == points(Outcome(each, None) for each in given)
    assert all(outcome.measured and outcome.is_last for outcome in outcomes)


def test_a_point_that_cannot_be_built_is_found_and_harms_no_other():
    (given,) = proposals(1)
    outcomes = run(Builders(bad=[3]), Devices(), [given])
    assert points(outcomes) == list(given.trials)
    assert points(each for each in outcomes if each.guilty) == [3]
    assert all(each.measured for each in outcomes if not each.guilty)
    assert [each.is_last for each in outcomes] == [False] * 6 + [True]


def test_a_lone_point_that_cannot_be_built_is_guilty_only_beside_a_reference_that_can():
    (given,) = proposals(1, trials=1)
    for bad, guilty in (([1], True), ([0], False)):
        (outcome,) = run(Builders(bad), Devices(), [given])
        assert outcome.proposal.trials == (1,)
        assert (outcome.guilty, outcome.is_last) == (guilty, True)


def test_nothing_is_a_points_fault_where_nothing_can_be_built():
    (given,) = proposals(1)
    (outcome,) = run(builders := Builders(bad=[0]), Devices(), [given])
    assert (outcome.proposal, outcome.guilty, outcome.is_last) == (given, False, True)
    assert "cannot be built" in outcome.trouble
    assert [len(job.points) for job in builders.jobs] == [MOST_POINTS, 1]


def test_builds_that_were_lost_are_nobodys_fault():
    outcomes = run(Builders([3], BuildLost), Devices(), proposals(1))
    assert points(each for each in outcomes if not each.measured) == [3]
    assert not any(each.guilty for each in outcomes)


def test_what_devices_lose_is_nobodys_fault():
    given = proposals(MANY)
    outcomes = run(Builders(), Devices(bad=[3]), given)
    (lost,) = (each for each in outcomes if not each.measured)
    assert (lost.proposal, lost.trouble, lost.guilty) == (given[0], "it is gone", False)


def test_builds_and_measurements_take_turns_where_they_would_disturb_each_other():
    class Watched(Devices):
        def submit(self, job, tar, seconds=1.0):
            counts.append(len(builders.jobs))
            return super().submit(job, tar, seconds)

    counts: list[int] = []
    builders = Builders(workers=2)
    run(builders, Watched(local=True), proposals(4))
    assert counts == [2, 2, 4, 4]
