"""Which task gets the next batch of trials: where the model's time is, and where trials still pay.

The rule is Ansor's (Zheng et al., OSDI 2020, section 6.2) without its similarity term: the gain to
expect of a batch lies between what the last batches brought and what there is to hope for. There a
task may hope to lose all of its time to further search. A template's default point is a good one
already, so that here a task hopes for HOPE of its time at first, and less with every batch. As
there, every task of some weight gets a batch before the rule decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HOPE = 0.2        # of a task's time: what its first batch may find
TOLD = 0.02       # of all time: a task with as much gets a batch before any gets a second one
RECENT = 0.5      # the weight of the last batches' gain against hope
WINDOW = 3        # batches that say how fast a search goes on
PATIENCE = 8      # batches without gain after which a task is given up
GAIN = 0.003      # of the default's time: less than this is noise, not gain


@dataclass
class _Progress:
    """The best time, relative to the default's, after each batch; and batches still under way."""

    best: list[float] = field(default_factory=lambda: [1.0])
    asked: int = 0
    left: bool = True

    @property
    def batches(self) -> int:
        return len(self.best) - 1

    @property
    def live(self) -> bool:
        """Whether more trials may pay."""
        before = self.best[max(0, self.batches - PATIENCE)]
        stale = self.batches >= PATIENCE and before - self.best[-1] < GAIN
        return self.left and not stale

    @property
    def expected(self) -> float:
        """What the next batch may gain, as a share of the default's time."""
        window = min(WINDOW, self.batches)
        recent = (self.best[-1 - window] - self.best[-1]) / window if window else 0.0
        hope = HOPE * self.best[-1] / (1 + max(self.asked, self.batches))
        return RECENT * recent + (1 - RECENT) * hope


class Budget:
    """`weights`: for each task the time that its default kernels take in the model, in any unit."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)
        self._tasks = {task: _Progress() for task in weights}
        self._least = TOLD * sum(weights.values())

    def next_task(self) -> str | None:
        """The task for the next batch, None when all are done; batches may be under way."""
        live = [task for task, progress in self._tasks.items() if progress.live]
        if not live:
            return None
        unknown = [task for task in live if self._is_unknown(task)]
        task = max(
            unknown or live, key=lambda each: self._weights[each] * self._tasks[each].expected
        )
        self._tasks[task].asked += 1
        return task

    def _is_unknown(self, task: str) -> bool:
        progress = self._tasks[task]
        return not (progress.asked or progress.batches) and self._weights[task] >= self._least

    def lost(self, task: str, left: int) -> None:
        """After a batch of which nothing came; there are `left` untried points."""
        self._tasks[task].asked -= 1
        self._tasks[task].left = left > 0

    def told(self, task: str, best: float, left: int) -> None:
        """After a batch: the best time so far relative to the default's, and the untried points."""
        progress = self._tasks[task]
        progress.best.append(min(best, progress.best[-1]))
        progress.left = left > 0
