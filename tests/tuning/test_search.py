"""A task's search: what it proposes, and that a cost model finds fast points sooner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import pytest

from pocketformer.compiler.tuning.cost_model import CostModel, TaskModel
from pocketformer.compiler.tuning.search import TaskSearch
from pocketformer.schedules.workloads import Linear

LAYER = Linear(128, 1536, 384, bias=True)
POINTS = tuple(range(40))


@dataclass(frozen=True)
class Tile:
    """A made-up template's point."""

    rows: int
    columns: int
    unroll: int
    ahead: int


TILES = tuple(
    Tile(rows, columns, unroll, ahead)
    for rows in range(1, 17) for columns in range(16, 112, 16)
    for unroll in (1, 2, 4) for ahead in (0, 8, 16, 32)
)


def made_up(tile: Tile, layer: Linear) -> float:
    """A time with what real ones have: padding, a best tile, and registers that are spilled."""
    padding = -(-layer.n // tile.columns) * tile.columns / layer.n
    away = abs(math.log2(tile.rows / 7)) + abs(math.log2(tile.columns / 64))
    spilled = 0.5 * (tile.rows * tile.columns > 28 * 16)
    other = 0.03 * (tile.unroll != 2) + 0.02 * (tile.ahead != 8)
    return padding * (1 + 0.1 * away + spilled + other)


def searched(layer: Linear, trials: int, seed: int, model: TaskModel | None) -> float:
    """The best time found, relative to that of the first tile."""
    search = TaskSearch(TILES, model=model, seed=seed)
    for _ in range(trials // 8):
        search.told({
            tile: made_up(tile, layer) / made_up(TILES[0], layer) for tile in search.propose(8)})
    return search.best[1]


@pytest.mark.parametrize("strategy", ["model", "random"])
def test_every_point_but_the_default_is_proposed_once(strategy):
    points = TILES[::30]
    search = TaskSearch(points, strategy=strategy, model=CostModel().of(LAYER), seed=1)
    proposed = []
    while not search.exhausted:
        batch = search.propose(7)
        proposed += batch
        search.told({point: 1.0 + len(proposed) / 100 for point in batch})
    assert sorted(map(str, proposed)) == sorted(map(str, points[1:]))
    assert search.propose(7) == []


def test_start_points_come_first_and_strangers_are_left_out():
    search = TaskSearch(POINTS, start=[30, 0, 99, 7, 30], seed=3)
    assert search.propose(2) == [30, 7]


def test_points_that_records_told_are_not_proposed():
    search = TaskSearch(POINTS, start=[5, 6], seed=3)
    search.told({5: 0.8, 9: None})
    assert search.left == 37
    proposed = search.propose(40)
    assert proposed[0] == 6
    assert not {0, 5, 9} & set(proposed)
    assert search.best == (5, 0.8)


def test_results_of_points_that_are_not_of_the_space_are_left_out():
    search = TaskSearch(POINTS, seed=3)
    search.told({99: 0.5, 3: 0.9})
    assert search.best == (3, 0.9)


def test_a_queued_point_is_next_unless_it_was_tried():
    search = TaskSearch(POINTS, seed=3)
    (tried,) = search.propose(1)
    search.queue([tried, 39 if tried != 39 else 38])
    assert search.propose(1) == [39 if tried != 39 else 38]


def test_the_default_is_the_best_where_all_others_fail():
    search = TaskSearch(POINTS, seed=3)
    search.told(dict.fromkeys(search.propose(8)))
    assert search.best == (0, 1.0)


def test_the_same_seed_proposes_the_same_points():
    first, second, other = (TaskSearch(POINTS, seed=seed).propose(8) for seed in (1, 1, 2))
    assert first == second != other


def test_the_cost_model_finds_faster_points_than_chance_does():
    by_model = [searched(LAYER, 40, seed, CostModel(seed).of(LAYER)) for seed in range(3)]
    by_chance = [searched(LAYER, 40, seed, None) for seed in range(3)]
    assert fmean(by_model) < fmean(by_chance) - 0.02


def test_results_of_another_layer_save_trials():
    other = Linear(128, 1152, 384, bias=True)
    cold = [searched(LAYER, 16, seed, CostModel(seed).of(LAYER)) for seed in range(3)]
    warm = []
    for seed in range(3):
        model = CostModel(seed)
        searched(other, 32, seed, model.of(other))
        warm.append(searched(LAYER, 16, seed, model.of(LAYER)))
    assert fmean(warm) < fmean(cold) - 0.02
