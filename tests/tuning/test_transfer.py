"""Start points from records: whose, in which order, and what becomes of those that do not fit."""

from __future__ import annotations

from dataclasses import replace

from pocketformer import targets
from pocketformer.compiler.tuning.points import Point, points_of
from pocketformer.compiler.tuning.record import Record
from pocketformer.compiler.tuning.transfer import (
    FIRST,
    nearest_points,
    neighbours,
    transfer_points,
)
from pocketformer.schedules.workloads import Linear, Norm
from tests.tuning.examples import record

PHONE = targets.load("pixel8")
CORE = PHONE.cores[0].mcpu
LAYER = Linear(128, 1536, 384, bias=True)
SPACE = points_of(LAYER, PHONE)


def told(workload: Linear | Norm, number: int, gain: float, core: str = CORE) -> Record:
    """A record of this point of the workload's space on the phone."""
    point = points_of(workload, PHONE)[number]
    return record(workload=workload, point=point, core=core, median_us=100.0,
                  default_us=100.0 * gain)


def nearest(records: list[Record], count: int = FIRST) -> list[Point]:
    """Of the space of LAYER on the phone."""
    return nearest_points(LAYER, SPACE, records, CORE, count)


def test_the_same_workload_comes_first_and_its_best_point_before_others():
    near = Linear(96, 1536, 384, bias=True)
    records = [told(near, 4, 1.5), told(LAYER, 2, 1.1), told(LAYER, 3, 1.2)]
    assert nearest(records)[:2] == [SPACE[3], SPACE[2]]


def test_a_kin_core_s_point_comes_after_this_core_s():
    kin = "cortex-x1" if CORE != "cortex-x1" else "cortex-x2"
    records = [told(LAYER, 3, 1.3, core=kin), told(LAYER, 2, 1.1)]
    assert nearest(records) == [SPACE[2], SPACE[3]]


def test_strangers_slow_points_and_failures_say_nothing():
    records = [
        told(LAYER, 2, 1.3, core="znver4"),
        told(LAYER, 3, 0.9),
        replace(told(LAYER, 4, 1.3), median_us=None, default_us=None, error="crashed"),
        told(Norm(128, 384, "layer", 1e-5), 1, 1.3),
    ]
    assert nearest(records) == []


def test_a_point_of_another_shape_gives_the_nearest_one_of_this_space():
    narrow = Linear(128, 312, 384, bias=True)
    foreign = max(
        (point for point in points_of(narrow, PHONE) if point not in SPACE),
        key=lambda point: point.rows)
    records = [record(workload=narrow, point=foreign, core=CORE)]
    (found,) = nearest(records)
    assert found in SPACE
    assert found.rows == foreign.rows


def test_a_far_shape_says_nothing():
    assert nearest([told(Linear(1, 12, 96, bias=True), 1, 1.5)]) == []


def test_no_more_points_than_asked_for():
    records = [
        told(Linear(m, 1536, 384, bias=True), number, 1.0 + number / 50)
        for m in (128, 96, 64) for number in range(1, 6)
    ]
    assert len(nearest(records, count=4)) == 4


def test_a_search_that_records_say_nothing_of_starts_near_the_default():
    first, same, other = (transfer_points(LAYER, PHONE, [], seed=seed) for seed in (1, 1, 2))
    assert first == same != other
    assert len(first) == FIRST
    assert set(first + other) <= set(neighbours(SPACE))
    assert len(neighbours(SPACE)) < len(SPACE) / 5


def test_what_records_say_comes_before_points_near_the_default():
    points = transfer_points(LAYER, PHONE, [told(LAYER, len(SPACE) - 1, 1.2)])
    assert points[0] == SPACE[-1]
    assert len(points) == FIRST


def test_a_default_alone_has_no_neighbours():
    assert neighbours(SPACE[:1]) == []
