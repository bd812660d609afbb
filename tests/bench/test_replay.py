"""Replays of a sweep: the file is read as it was written; the same one gives the same curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.replay import (
    TRIALS,
    Table,
    curve,
    default_of,
    mean_gain,
    racers,
    read_sweep,
    replay,
    searched,
    trials_to,
    write_sweep,
)
from pocketformer.compiler.tuning.job import MOST_POINTS
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.task_state import FINALISTS
from pocketformer.schedules.workloads import Linear
from tests.tuning.examples import HOST, record


def swept(layer: Linear, count: int = 24) -> Table:
    """A table in which a point is the faster the nearer its number is to 10; 5 fails."""
    points = points_of(layer, HOST)[:count]
    records = [
        record(number, workload=layer, median_us=100.0 + abs(number - 10), default_us=110.0)
        for number in range(1, count)
    ]
    records[4] = replace(records[4], error="crashed", median_us=None, default_us=None)
    first = default_of(records[0], points[0])
    return Table(str(layer), {each.point: each for each in [first, *records]})


TABLES = [swept(Linear(128, 1536, 384)), swept(Linear(128, 1152, 384))]


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path):
    for name in ("sweep.jsonl.gz", "again.jsonl.gz"):
        write_sweep(TABLES, tmp_path / name)
    assert read_sweep(tmp_path / "sweep.jsonl.gz") == TABLES
    assert (tmp_path / "sweep.jsonl.gz").read_bytes() == (tmp_path / "again.jsonl.gz").read_bytes()


def test_the_same_sweep_gives_the_same_curves():
    assert replay(TABLES, 1) == replay(TABLES, 1)


@pytest.mark.parametrize("strategy", ["random", "model"])
def test_a_search_asks_for_every_point_but_the_default_once(strategy):
    asked = [each.point for each in searched(TABLES[0], strategy, 0)]
    assert sorted(map(str, asked)) == sorted(map(str, list(TABLES[0].records)[1:]))


def test_with_records_of_another_layer_its_best_point_comes_first():
    known = searched(TABLES[1], "random", 0)
    (first, *_) = searched(TABLES[0], "model", 0, known)
    assert first.gain == TABLES[0].best == pytest.approx(1.1)


def test_a_searchs_best_points_race_with_the_best_of_all():
    own, others = racers(TABLES[0], 0)
    gains = TABLES[0].records
    assert len(own) == FINALISTS
    assert len(own) + len(others) == MOST_POINTS - 1
    assert len({*own, *others, TABLES[0].default}) == MOST_POINTS
    best = sorted((record.gain for record in gains.values()), reverse=True)
    assert sorted((gains[point].gain for point in own + others), reverse=True) == best[:7]


def test_a_curve_never_falls_and_stays_where_a_space_ends():
    found = curve([record(1, median_us=time, default_us=100.0) for time in (125.0, 80.0, 90.0)])
    assert found[:3] == [1.0, 1.25, 1.25]
    assert found[3:] == [1.25] * (TRIALS - 3)


def test_the_mean_gain_is_over_tasks_and_the_median_over_seeds():
    seeds = [{"a": [high] * TRIALS, "b": [1.0] * TRIALS} for high in (1.2, 1.4, 3.0)]
    assert mean_gain(seeds) == pytest.approx([1.2] * TRIALS)
    assert trials_to(1.19, mean_gain(seeds)) == 1
    assert trials_to(1.21, mean_gain(seeds)) is None
