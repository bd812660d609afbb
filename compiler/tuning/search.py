"""Which points of one task to measure next: start points, then what the cost model expects most of.

All untried points are scored, as a space has some thousands at most: nothing needs to be evolved.
The model has several opinions, and each chooses in turn: where they differ something is to be
learned, and a batch is not all of one kind.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

P = TypeVar("P", bound=Hashable)

Strategy = Literal["model", "random"]


class Scorer(Protocol):
    """What a search asks of a cost model: `cost_model.TaskModel` is one."""

    def told(self, results: Mapping[Any, float | None]) -> None:
        """Take in times relative to the default's; None is a point that failed."""

    def opinions(self, points: Sequence[Any]) -> Sequence[Sequence[float]] | None:
        """Several times a number for each point, higher for a faster one; None while too little
        is known.
        """


class TaskSearch(Generic[P]):
    """The search over `points`, of which the first is the default.

    `start` is proposed before all others. Results are times relative to the default's in the same
    batch (0.9 takes 10 % less), None where a point failed; nobody needs to tell the default's 1.0.
    Without `model`, or with the strategy "random", what follows is drawn at random. Deterministic
    given `seed` and the results.
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
        self.results: dict[P, float | None] = {points[0]: 1.0}
        self._default = points[0]
        self._model = model if strategy == "model" else None
        rest = [point for point in dict.fromkeys(points) if point != points[0]]
        random.Random(seed).shuffle(rest)
        self._space = frozenset(points)
        self._untried = dict.fromkeys(rest)        # a dict keeps the order, and finds quickly
        self._waiting: list[P] = []
        self.queue(start)
        if self._model is not None:
            self._model.told(self.results)

    @property
    def left(self) -> int:
        """How many points were neither proposed nor told."""
        return len(self._untried)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to propose."""
        return not self._untried

    @property
    def best(self) -> tuple[P, float]:
        """The fastest point so far and its time; the default and 1.0 where none is faster."""
        known = ((point, time) for point, time in self.results.items() if time is not None)
        return min(known, key=lambda item: item[1])

    def queue(self, points: Iterable[P]) -> None:
        """Propose `points` next, where they are untried: what did well in a task like this."""
        self._waiting += [point for point in points if point in self._untried]

    def propose(self, count: int) -> list[P]:
        """Up to `count` points that were never proposed; the default is not among them."""
        chosen = self._first(self._waiting, count)
        self._waiting = [point for point in self._waiting if point in self._untried]
        chosen += self._first(self._promising(), count - len(chosen))
        return chosen + self._first(list(self._untried), count - len(chosen))

    def give_back(self, points: Iterable[P]) -> None:
        """Take back that `points` were proposed: nobody can tell anything about them yet."""
        self._untried.update(
            (point, None) for point in points if point in self._space - self.results.keys()
        )

    def told(self, results: Mapping[P, float | None]) -> None:
        """Take in results, also of points that were never proposed, as from an earlier run.

        Those that are not of the space are left out: an older version may have had them.
        """
        known = {point: time for point, time in results.items() if point in self._space}
        self.results |= known
        self.results[self._default] = 1.0
        for point in known:
            self._untried.pop(point, None)
        if self._model is not None:
            self._model.told(known)

    def _promising(self) -> list[P]:
        """The untried points: the best in each opinion, then the next; none where there is none."""
        points = list(self._untried)
        opinions = self._model.opinions(points) if self._model is not None else None
        orders = [sorted(range(len(points)), key=lambda i: -scores[i]) for scores in opinions or ()]
        return [points[i] for places in zip(*orders, strict=True) for i in places]

    def _first(self, points: Sequence[P], count: int) -> list[P]:
        """Take the first `count` untried ones of `points`."""
        chosen: list[P] = []
        for point in points:
            if len(chosen) >= count:
                break
            if point in self._untried:
                del self._untried[point]
                chosen.append(point)
        return chosen
