"""Which points of one task to measure next: start points, then what the cost model expects most of.

All untried points are scored (a space has at most some thousands), so nothing is evolved.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, Literal, Protocol, TypeVar

P = TypeVar("P", bound=Hashable)

Strategy = Literal["model", "random"]


class Scorer(Protocol):
    """What a search asks of a cost model: `cost_model.TaskModel` is one."""

    def told(self, results: Mapping[object, float | None]) -> None: ...
    def scores(self, points: Sequence[object]) -> list[float] | None: ...


class TaskSearch(Generic[P]):
    """The search of one task over `points`, of which the first is the default.

    `start` is proposed before all others, after the default. Results are times relative to the
    default's in the same interleaved batch (0.9: 10 % faster), None where a point failed.
    Deterministic given `seed` and the results.
    """

    def __init__(
        self,
        points: Sequence[P],
        *,
        start: Sequence[P] = (),
        strategy: Strategy = "model",
        model: Scorer | None = None,
        seed: int = 0,
    ) -> None:
        self.default = points[0]
        self.results: dict[P, float | None] = {self.default: 1.0}
        self._model = model if strategy == "model" else None
        self._random = random.Random(seed)
        self._waiting = [p for p in dict.fromkeys(start) if p in set(points) and p != self.default]
        self._left = list(dict.fromkeys(points))
        self._left.remove(self.default)
        self._random.shuffle(self._left)

    @property
    def exhausted(self) -> bool:
        """Whether all points were proposed."""
        return not self._left

    @property
    def left(self) -> int:
        """How many points were not proposed yet."""
        return len(self._left)

    @property
    def best(self) -> tuple[P, float]:
        """The fastest point so far and its time relative to the default's; the default is 1.0."""
        known = ((p, value) for p, value in self.results.items() if value is not None)
        return min(known, key=lambda item: item[1])

    def propose(self, count: int) -> list[P]:
        """Up to `count` points that were never proposed and have no result, the default left out."""
        chosen = self._left[:count]
        self._left = self._left[count:]
        return chosen

    def told(self, results: Mapping[P, float | None]) -> None:
        """Take in results, also of points that were not proposed (records of an earlier run)."""
        self.results.update(results)
        self._left = [p for p in self._left if p not in results]
        if self._model is not None:
            self._model.told(results)

    def queue(self, points: Iterable[P]) -> None:
        """Propose these first, where they are untried (what did well in a sibling task)."""
        left = set(self._left)
        self._waiting += [p for p in points if p in left and p not in self._waiting]
