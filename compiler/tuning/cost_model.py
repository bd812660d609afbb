"""Predicts from a point's fields and its workload's sizes how fast it is: xgboost's trees.

Some ensembles of trees, not one: each weighs the results by chance (the Bayesian bootstrap of
Rubin, 1981), so they agree where much was measured. A search that follows another one with each
point of a batch explores where they differ (Thompson sampling: Eckles and Kaptein, 2014), and does
not spend the batch on neighbours of one lucky measurement. What other tasks tell is a prior: the
more a task has results of its own the less it weighs.

MetaSchedule's XGBModel learns from the stores in a kernel's code, of which only the last to a
buffer counts: a tile's columns or a prefetch hardly show. Given the features here it finds points
as good (over measured tables of MiniLM's linear layers), in twice the time; and it cannot weigh a
task's own results more than those of others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pocketformer.compiler.errors import MissingPackage
from pocketformer.compiler.tuning.features import features
from pocketformer.targets.kin import kin

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.record import Record
    from pocketformer.schedules.workloads import Workload

ENOUGH = 8        # results of a kind: the default and a batch, before which its model is noise
WORST = 0.5       # a point at half the best one's speed counts like one that failed
OPINIONS = 4
ROUNDS = 30
OTHERS = 5        # of a task's own results, at which those of others weigh half as much
TREES = {
    "objective": "reg:squarederror",
    "max_depth": 6,
    "min_child_weight": 0,
    "eta": 0.3,
    "colsample_bytree": 0.5,      # many columns say nearly the same
    "base_score": 0.0,
    "nthread": 1,
}


Kind: TypeAlias = "tuple[type[Any], type[Workload]]"


def kind_of(point: Any, workload: Workload) -> Kind:
    """What results have in common that can learn from each other: DotGemm serves two classes."""
    return type(point), type(workload)


@dataclass
class _Results:
    """A task's results: rows of features, and times relative to the default's."""

    rows: list[list[float]] = field(default_factory=list)
    times: list[float | None] = field(default_factory=list)

    @property
    def labels(self) -> list[float]:
        """log(best / time): 0 for the best, so that tasks with a poor default are like others."""
        best = min((time for time in self.times if time), default=1.0)
        speeds = (best / time if time else 0.0 for time in self.times)
        return [math.log(max(speed, WORST)) for speed in speeds]


class CostModel:
    """The results of all tasks of a tuning run; those of a kind learn from each other.

    A kind is a template and a class of workloads, which features have the same columns for.
    Deterministic given `seed` and the results. Raises MissingPackage without xgboost.
    """

    def __init__(self, seed: int = 0) -> None:
        try:
            import xgboost
        except ImportError:
            raise MissingPackage(
                "tuning with a cost model needs xgboost; install it: "
                "pip install 'pocketformer[tune]'"
            ) from None
        self._xgboost, self._seed = xgboost, seed
        self._results: dict[Kind, dict[Hashable, _Results]] = {}     # kind -> task

    def of(self, workload: Workload, sizes: Mapping[str, int] | None = None) -> TaskModel:
        """The model for one task, as `TaskSearch` takes it."""
        return TaskModel(self, workload, dict(sizes or {}))

    def learn(self, records: Iterable[Record], core: str) -> None:
        """Take in what is known of any tasks and models on `core` and its kin."""
        alike = kin(core)
        for record in records:
            if record.core in alike and not record.emulated:
                task = record.core, record.threads, str(record.workload), *record.sizes.items()
                row = features(record.point, record.workload, record.sizes)
                kind = kind_of(record.point, record.workload)
                self.add(kind, task, row, 1 / record.gain if record.gain else None)

    def add(self, kind: Kind, task: Hashable, row: list[float], time: float | None) -> None:
        """Take in one result: `row` are a point's features, `time` is None if it failed."""
        results = self._results.setdefault(kind, {}).setdefault(task, _Results())
        results.rows.append(row)
        results.times.append(time)

    def predict(
        self, kind: Kind, task: Hashable, rows: Sequence[list[float]]
    ) -> list[list[float]] | None:
        """OPINIONS on log(best / time) of each row of features; None while too little is known."""
        known = self._results.get(kind, {})
        count = sum(len(results.rows) for results in known.values())
        if count < ENOUGH:
            return None
        table = [row for results in known.values() for row in results.rows]
        labels = [label for results in known.values() for label in results.labels]
        own = len(known[task].rows) if task in known else 0
        others = OTHERS / (OTHERS + own)
        weights = np.array([
            1.0 if key == task else others for key, results in known.items() for _ in results.rows
        ])
        matrix = self._xgboost.DMatrix
        data, asked = matrix(np.array(table), np.array(labels)), matrix(np.array(rows))
        chance = np.random.default_rng([self._seed, count])
        opinions = []
        for _ in range(OPINIONS):
            data.set_weight(weights * chance.exponential(size=count))
            parameters = {**TREES, "seed": int(chance.integers(1 << 31))}
            trees = self._xgboost.train(parameters, data, ROUNDS)
            opinions.append([float(score) for score in trees.predict(asked)])
        return opinions


class TaskModel:
    """The cost model for the points of one task."""

    def __init__(self, model: CostModel, workload: Workload, sizes: dict[str, int]) -> None:
        self._model, self._workload, self._sizes = model, workload, sizes
        self._task = "", 0, str(workload), *sizes.items()
        self._rows: dict[Any, list[float]] = {}

    def told(self, results: Mapping[Any, float | None]) -> None:
        """Take in times relative to the default's; None is a point that failed."""
        for point, time in results.items():
            self._model.add(kind_of(point, self._workload), self._task, self._row(point), time)

    def opinions(self, points: Sequence[Any]) -> list[list[float]] | None:
        """Several times a number for each point, higher for a faster one; None while too little
        is known.
        """
        if not points:
            return None
        kind = kind_of(points[0], self._workload)
        return self._model.predict(kind, self._task, [self._row(point) for point in points])

    def _row(self, point: Any) -> list[float]:
        if point not in self._rows:
            self._rows[point] = features(point, self._workload, self._sizes)
        return self._rows[point]
