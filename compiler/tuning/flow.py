"""Batches on their way through builders and devices.

Builds and measurements overlap; where the device is the machine that builds, they take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pocketformer.compiler.errors import BuildFailed, PocketformerError
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.tuning.task_state import TaskState

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.measure import Measured

HEARTBEAT = 0.5      # seconds, after which a watcher hears of devices that come and go


class Builders(Protocol):
    """What builds jobs, here or on a cluster."""

    @property
    def workers(self) -> int: ...
    def submit(self, job: Job) -> Future[bytes]: ...


class Measurers(Protocol):
    """What measures them."""

    @property
    def count(self) -> int: ...
    @property
    def local(self) -> bool: ...
    def submit(self, job: Job, tar: bytes, seconds: float = 1.0) -> Future[Measured]: ...


@dataclass(frozen=True)
class Batch:
    """A job for a task; its points but the first are trials. `seconds` are for measuring them."""

    state: TaskState
    job: Job
    seconds: float

    @property
    def trials(self) -> tuple[Any, ...]:
        return self.job.points[1:]


@dataclass(frozen=True)
class Outcome:
    """What came of a batch: timings, or the `trouble` that left none.

    Without timings, `built` tells that no device could measure it; else its only trial cannot be
    built, which is the trial's own fault.
    """

    batch: Batch
    measured: Measured | None
    trouble: str = ""
    built: bool = True


class Flow:
    """Batches on their way through builders and devices."""

    def __init__(self, builders: Builders, devices: Measurers, tell: Callable[[], None]) -> None:
        self._builders, self._devices, self._tell = builders, devices, tell
        self._builds: dict[Future[bytes], Batch] = {}
        self._built: list[tuple[Batch, bytes]] = []
        self._measuring: dict[Future[Measured], Batch] = {}

    def run(self, propose: Callable[[], Batch | None]) -> Iterator[Outcome]:
        """The outcomes of all batches that `propose` gives until it gives None, as they come."""
        while True:
            while self._has_room() and (batch := propose()):
                self._builds[self._builders.submit(batch.job)] = batch
            if not (self._builds or self._built or self._measuring):
                return
            if not (self._devices.local and self._builds):
                for batch, tar in self._built:
                    future = self._devices.submit(batch.job, tar, batch.seconds)
                    self._measuring[future] = batch
                self._built.clear()
            running: list[Future[Any]] = [*self._builds, *self._measuring]
            done, _ = wait(running, timeout=HEARTBEAT, return_when=FIRST_COMPLETED)
            for future in done:
                yield from self._collect(future)
            self._tell()

    def _has_room(self) -> bool:
        waiting = len(self._builds) + len(self._built)
        if self._devices.local:
            return not (self._measuring or self._built) and waiting < self._builders.workers
        return (
            waiting < self._builders.workers + self._devices.count
            and waiting + len(self._measuring) < self._builders.workers + 2 * self._devices.count
        )

    def _collect(self, future: Future[Any]) -> Iterator[Outcome]:
        if future in self._measuring:
            batch = self._measuring.pop(future)
            try:
                yield Outcome(batch, future.result())
            except PocketformerError as error:
                yield Outcome(batch, None, str(error))
            return
        batch = self._builds.pop(future)
        try:
            self._built.append((batch, future.result()))
        except BuildFailed as error:
            yield from self._split(batch, str(error))

    def _split(self, batch: Batch, why: str) -> Iterator[Outcome]:
        """Find out which point cannot be built: each goes through alone."""
        if len(batch.trials) <= 1:
            yield Outcome(batch, None, why, built=False)
            return
        for job in list(batch.job.split())[1:]:
            part = Batch(batch.state, job, batch.seconds)
            self._builds[self._builders.submit(job)] = part
