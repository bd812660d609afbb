"""One task under search: what was measured of it, and which points are its best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.tuning.result import TaskStatus

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.measure import Measured
    from pocketformer.compiler.tuning.record import Record
    from pocketformer.compiler.tuning.search import TaskSearch
    from pocketformer.compiler.tuning.tasks import Task
    from pocketformer.compiler.tuning.trace_search import TraceSearch

FINALISTS = 5     # of a task: with so many the best of all is seldom missing


class TaskState:
    """A task, its search, and its trials.

    `share` is its part of the model's time in kernels, `name_of` gives a point's kernel's name.
    """

    def __init__(
        self,
        task: Task,
        points: Sequence[Any],
        search: TaskSearch[Any] | TraceSearch,
        share: float,
        name_of: Callable[[Any], str],
    ) -> None:
        self._name_of = cache(name_of)      # which writes the kernel
        self.task, self.points, self.default = task, points, points[0]
        self.search, self.share = search, share
        self._confirmed: dict[Any, float] = {}
        self._recalled: list[float | None] = []
        self._lost: set[Any] = set()
        self._defaults: list[float] = []     # microseconds of the default point, of each batch
        self._status = TaskStatus(
            key=task.key,
            workload=str(task.workload),
            sizes=dict(task.sizes),
            calls=task.calls,
            share=share,
            points=len(points),
        )

    def recall(self, records: Iterable[Record]) -> None:
        """Take in what a file knows of this task."""
        found: dict[Any, list[Record]] = {}
        for record in records:
            found.setdefault(record.point, []).append(record)
        # As the search saw them: the races would change who is among the best and has to race.
        results = {
            point: _ratio([each for each in known if not each.confirmed] or known)
            for point, known in found.items()
        }
        races = {
            point: _ratio(each for each in known if each.confirmed)
            for point, known in found.items()
        }
        self._confirmed = {point: ratio for point, ratio in races.items() if ratio is not None}
        self._defaults += [
            each.default_us for known in found.values() for each in known if each.default_us
        ]
        self._status = replace(
            self._status,
            trials=len(found),
            known=len(found),
            failed=sum(ratio is None for ratio in results.values()),
        )
        if results:
            self.search.told(results)
        self._recalled = list(results.values())

    def history(self, batch: int) -> list[float]:
        """The best time, relative to the default's, after each batch that a file told of."""
        best = list(accumulate(
            (1.0 if ratio is None else ratio for ratio in self._recalled), min, initial=1.0))
        return best[batch::batch] + best[-1:] * bool(len(self._recalled) % batch)

    def told(self, points: Sequence[Any], measured: Measured) -> None:
        """Take in a batch of trials: the default point's timing, then those of `points`."""
        results = ratios(points, measured)
        self._remember_default(measured)
        self._status = replace(
            self._status,
            trials=self._status.trials + len(results),
            failed=self._status.failed + sum(ratio is None for ratio in results.values()),
        )
        self.search.told(results)

    def failed(self, points: Sequence[Any]) -> None:
        """Take in trials that cannot be built."""
        self._status = replace(
            self._status,
            trials=self._status.trials + len(points),
            failed=self._status.failed + len(points),
        )
        self.search.told(dict.fromkeys(points))

    def lost(self, points: Sequence[Any]) -> None:
        """Take in that nothing is known of `points`: they may come again, but only once."""
        self.search.give_back(point for point in points if point not in self._lost)
        if again := self._lost.intersection(points):
            self.search.told(dict.fromkeys(again))
        self._lost.update(points)

    def confirmed(self, points: Sequence[Any], measured: Measured) -> None:
        """Take in the final race of `points` against the default one."""
        self._remember_default(measured)
        self._confirmed |= {
            point: ratio
            for point, ratio in ratios(points, measured).items()
            if ratio is not None
        }

    def _remember_default(self, measured: Measured) -> None:
        if not isinstance(default := measured.timings[0], str):
            self._defaults.append(default.us)

    def finalists(self) -> list[Any]:
        """The best points, whose race would tell something new; none where that has been run."""
        known = self.search.results.items()
        ranked = sorted(
            (item for item in known if item[1] is not None and item[1] < 1),
            key=lambda item: item[1] or 0.0,
        )
        best = [point for point, _ in ranked if point != self.default][:FINALISTS]
        return [] if all(point in self._confirmed for point in best) else best

    @property
    def _is_decided(self) -> bool:
        """Whether the best points have raced, and none that came later is better."""
        return bool(self._confirmed) and not self.finalists()

    @property
    def _best(self) -> tuple[Any, float]:
        """The best point and its time over the default's; of those that raced, once decided."""
        known = {self.default: 1.0} | self._confirmed
        if not self._is_decided:
            known = {
                point: ratio for point, ratio in self.search.results.items() if ratio is not None
            } | known
        return min(known.items(), key=lambda item: item[1])

    @property
    def ratio(self) -> float:
        """The best point's time over the default's."""
        return self._best[1]

    @property
    def status(self) -> TaskStatus:
        point, ratio = self._best
        better = point != self.default
        return replace(
            self._status,
            default_us=median(self._defaults) if self._defaults else None,
            gain=1 / ratio if better else 1.0,
            best=self._name_of(point) if better else "",
            confirmed=self._is_decided,
        )


def ratios(points: Sequence[Any], measured: Measured) -> dict[Any, float | None]:
    """Each point's time over the default's, None where it failed."""
    return {
        point: None if isinstance(timing, str) else timing.ratio
        for point, timing in zip(points, measured.timings[1:], strict=True)
    }


def _ratio(records: Iterable[Record]) -> float | None:
    """The median of what is known of one point; None where it only ever failed."""
    known = [
        each.median_us / each.default_us
        for each in records
        if not each.error and each.median_us and each.default_us
    ]
    return median(known) if known else None
