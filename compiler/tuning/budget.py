"""Which task gets the next batch of trials: where the model's time is and where trials still pay."""

from __future__ import annotations

from collections.abc import Mapping


class Budget:
    """`weights`: task -> the time that its default kernels take in the model (any unit).

    A task is given up when a number of batches in a row brought no gain, or when it has no points
    left; when all are, `done` holds.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = dict(weights)
        self._best: dict[str, list[float]] = {task: [1.0] for task in weights}
        self._live = set(weights)

    @property
    def done(self) -> bool:
        return not self._live

    def next_task(self) -> str | None:
        """The task for the next batch; None when all are done."""
        return max(sorted(self._live), key=self._weights.__getitem__, default=None)

    def told(self, task: str, best: float, left: int) -> None:
        """After a batch: the best time so far relative to the default's, and the untried points."""
        self._best[task].append(best)
        if left == 0:
            self._live.discard(task)
