"""Whether a device is as fast as it was: the reference of a task is timed in every batch."""

from __future__ import annotations

import threading

SLOWER = 1.05       # than in a task's first batch: phones slow down by heat in such steps
COOLED = 1.03
LONGEST = 60.0      # seconds to wait for a device
SHORTEST = 2.0


class Warmth:
    """The times of references on one device, by task. Threads may share it.

    Ratios of points hold at any clock, as all were timed in turns; but a point that only a warm
    device likes should not win.
    """

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._patience = LONGEST
        self._lock = threading.Lock()

    def seconds_to_wait(self, task: str, us: float) -> float:
        """How long to wait, at most, for the device to cool down; 0 where it is as it was."""
        with self._lock:
            first = self._first.setdefault(task, us)
            return self._patience if us > first * SLOWER else 0.0

    def has_cooled(self, task: str, us: float) -> bool:
        """Whether the reference now takes about the time of the first batch again."""
        return us <= self._first[task] * COOLED

    def waited(self, task: str, us: float) -> None:
        """Learn from what a wait brought: in vain, it was not heat, and the next is shorter."""
        with self._lock:
            if us <= self._first[task] * SLOWER:
                self._patience = LONGEST
            else:
                self._patience = max(SHORTEST, self._patience / 2)
                self._first[task] = us
