"""What a tuning tells while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketformer.compiler.progress import Progress
from pocketformer.compiler.tuning.result import TaskStatus

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.devices import Devices
    from pocketformer.compiler.tuning.scheduler import Scheduler

WAITING, COOLING = "waiting", "cooling down"


@dataclass(frozen=True)
class Status:
    """How far a tuning is: its step and the share of it that is done, then its trials.

    At most `left_s` seconds of the search are left, None as long as that is not known. `gain` is
    that of all kernels of the model together, as far as trials tell. `devices` are names and
    states, which have the words WAITING and COOLING where no batch is measured.
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


class Reporter:
    """Puts a Status together for a watcher, whenever a step (a Progress) or a trial is done."""

    def __init__(self, watcher: Watcher | None, of_trials: int) -> None:
        self._watcher, self._of_trials = watcher, of_trials
        self._step, self._fraction = "", 0.0
        self._began = self._searching = time.monotonic()
        self._scheduler: Scheduler | None = None
        self._devices: Devices | None = None
        self._known = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def __call__(self, step: str, fraction: float) -> None:
        self._step, self._fraction = step, fraction
        self.tell()

    def during(self, step: str) -> Progress:
        """What work of many steps of its own, which nobody wants to see, tells its progress."""
        return lambda _, fraction: self(step, fraction)

    def search(self, scheduler: Scheduler, devices: Devices) -> None:
        """From now on tell of these as well."""
        self._scheduler, self._devices, self._known = scheduler, devices, scheduler.trials
        self._searching = time.monotonic()
        self("searching", 0.0)

    def end_search(self) -> None:
        """No device measures any more."""
        self._devices = None

    def tell(self) -> None:
        """Tell what is known now."""
        if self._watcher is None:
            return
        scheduler = self._scheduler
        if scheduler is None:
            self._watcher(Status(self._step, self._fraction, seconds=self.seconds))
            return
        self._watcher(Status(
            self._step,
            self._fraction,
            scheduler.statuses,
            scheduler.trials,
            self._of_trials,
            1 / scheduler.ratio,
            self.seconds,
            self._left(scheduler.trials),
            tuple(self._devices.status) if self._devices else (),
        ))

    def _left(self, trials: int) -> float | None:
        made = trials - self._known
        if self._devices is None or not made:
            return None
        return (time.monotonic() - self._searching) / made * max(0, self._of_trials - trials)
