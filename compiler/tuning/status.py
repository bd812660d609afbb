"""What a tuning tells while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketformer.compiler.tuning.result import TaskStatus

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.devices import Devices
    from pocketformer.compiler.tuning.scheduler import Scheduler


@dataclass(frozen=True)
class Status:
    """How far a tuning is: its step and the share of it that is done, then its trials.

    About `left_s` seconds of the search are left, None as long as that is not known. `gain` is that
    of all kernels of the model together, as far as trials tell. `devices` are names and states.
    """

    step: str
    fraction: float
    tasks: tuple[TaskStatus, ...] = ()
    trials: int = 0
    of_trials: int = 0
    gain: float = 1.0
    seconds: float = 0.0
    left_s: float | None = None
    devices: tuple[tuple[str, str], ...] = ()


Watcher = Callable[[Status], None]


class Watch:
    """Puts a Status together for a watcher, whenever a step (a Progress) or a trial is done."""

    def __init__(self, watcher: Watcher | None, of_trials: int) -> None:
        self._watcher, self._of_trials = watcher, of_trials
        self._step, self._fraction = "", 0.0
        self._began = time.monotonic()
        self._search: tuple[Scheduler, Devices, int, float] | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, step: str, fraction: float) -> None:
        self._step, self._fraction = step, fraction
        self.tell()

    def search(self, scheduler: Scheduler, devices: Devices) -> None:
        """From now on tell of these as well."""
        self._search = (scheduler, devices, scheduler.trials, time.monotonic())
        self("searching", 0.0)

    def tell(self) -> None:
        """Tell what is known now."""
        if self._watcher is None:
            return
        if self._search is None:
            self._watcher(Status(self._step, self._fraction, seconds=self.seconds))
            return
        scheduler, devices, before, began = self._search
        done = scheduler.trials - before
        left = self._of_trials - scheduler.trials
        self._watcher(Status(
            self._step,
            self._fraction,
            scheduler.statuses,
            scheduler.trials,
            self._of_trials,
            1 / scheduler.ratio,
            self.seconds,
            (time.monotonic() - began) / done * left if done else None,
            tuple(devices.status),
        ))
