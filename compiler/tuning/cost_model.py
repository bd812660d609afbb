"""Predicts from a point's fields and its workload's sizes how fast it is: gradient-boosted trees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketformer.schedules.workloads import Workload
    from pocketformer.targets import Target


class CostModel:
    """One model for all tasks of a device: what one task teaches helps the next.

    Raises MissingPackage without xgboost: `pip install pocketformer[tune]`.
    """

    def __init__(self, target: Target, *, seed: int = 0) -> None:
        self.target, self.seed = target, seed

    def of(self, workload: Workload, sizes: Mapping[str, int] | None = None) -> TaskModel:
        """The model's view of one task, for `TaskSearch(model=...)`."""
        return TaskModel(self, workload, dict(sizes or {}))

    def learn(self, records: Iterable[Any]) -> None:
        """Warm start: take in measured records of any tasks (and of kin cores)."""


class TaskModel:
    """The cost model for the points of one task."""

    def __init__(self, model: CostModel, workload: Workload, sizes: dict[str, int]) -> None:
        self.model, self.workload, self.sizes = model, workload, sizes

    def told(self, results: Mapping[Any, float | None]) -> None:
        """Take in times relative to the default's; None is a point that failed."""

    def scores(self, points: Sequence[Any]) -> list[float] | None:
        """For each point a number, higher for a faster one; None before there is enough data."""
        return None
