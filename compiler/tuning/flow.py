"""Proposals on their way through builders and devices.

Builds and measurements overlap; where the device is the machine that builds, they take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from pocketformer.compiler.errors import BuildFailed, BuildLost, PocketformerError
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
class Proposal:
    """A job for a task; its points but the first are trials. `seconds` are for measuring them."""

    state: TaskState
    job: Job
    seconds: float

    @property
    def trials(self) -> tuple[Any, ...]:
        return self.job.points[1:]


@dataclass(frozen=True)
class Outcome:
    """What came of a proposal, or of a part of it: timings, or the `trouble` that left none.

    `guilty` tells that its only trial cannot be built, which is the trial's own fault. No other
    part of the same proposal is to come after the one that `is_last`.
    """

    proposal: Proposal
    measured: Measured | None
    trouble: str = ""
    guilty: bool = False
    is_last: bool = True


@dataclass(eq=False)
class _Whole:
    """A proposal on its way, in `parts` where it could not be built as one."""

    proposal: Proposal
    parts: int = 1


@dataclass(eq=False)
class _Part:
    """All of a proposal; or its reference alone, or that and one trial."""

    whole: _Whole
    job: Job
    tar: bytes = field(default=b"", repr=False)

    @property
    def is_all(self) -> bool:
        return self.job is self.whole.proposal.job

    @property
    def is_reference(self) -> bool:
        return len(self.job.points) == 1


class Flow:
    """Proposals on their way through builders and devices."""

    def __init__(self, builders: Builders, devices: Measurers, tell: Callable[[], None]) -> None:
        self._builders, self._devices, self._tell = builders, devices, tell
        self._builds: dict[Future[bytes], _Part] = {}
        self._built: list[_Part] = []
        self._measuring: dict[Future[Measured], _Part] = {}

    def run(self, propose: Callable[[], Proposal | None]) -> Iterator[Outcome]:
        """What came of all that `propose` gives until it gives None and nothing is under way."""
        while True:
            while self._has_room() and (proposal := propose()):
                self._build(_Part(_Whole(proposal), proposal.job))
            if self._is_idle:
                return
            if not (self._devices.local and self._builds):
                for part in self._built:
                    seconds = part.whole.proposal.seconds
                    future = self._devices.submit(part.job, part.tar, seconds)
                    self._measuring[future] = part
                self._built.clear()
            running: list[Future[Any]] = [*self._builds, *self._measuring]
            done, _ = wait(running, timeout=HEARTBEAT, return_when=FIRST_COMPLETED)
            for future in done:
                yield from self._collect(future)
            self._tell()

    @property
    def _is_idle(self) -> bool:
        return not (self._builds or self._built or self._measuring)

    def _has_room(self) -> bool:
        if self._is_idle:
            return True     # although no worker and no device may be there now
        waiting = len(self._builds) + len(self._built)
        if self._devices.local:
            return not (self._measuring or self._built) and waiting < self._builders.workers
        return (
            waiting < self._builders.workers + self._devices.count
            and waiting + len(self._measuring) < self._builders.workers + 2 * self._devices.count
        )

    def _collect(self, future: Future[Any]) -> Iterator[Outcome]:
        if future in self._measuring:
            yield self._measured(self._measuring.pop(future), future)
        else:
            yield from self._was_built(self._builds.pop(future), future)

    def _build(self, part: _Part) -> None:
        self._builds[self._builders.submit(part.job)] = part

    def _measured(self, part: _Part, future: Future[Measured]) -> Outcome:
        try:
            return self._outcome(part, future.result())
        except PocketformerError as error:
            return self._outcome(part, None, str(error))

    def _was_built(self, part: _Part, future: Future[bytes]) -> Iterator[Outcome]:
        """Find out which trial cannot be built: each goes through alone, the reference before."""
        reference, *pairs = part.whole.proposal.job.split()
        try:
            part.tar = future.result()
        except BuildFailed as error:
            if part.is_all:
                self._build(_Part(part.whole, reference))
                return
            guilty = not (part.is_reference or isinstance(error, BuildLost))
            yield self._outcome(part, None, str(error), guilty)
            return
        if part.is_reference:
            part.whole.parts = len(pairs)
            for job in pairs:
                self._build(_Part(part.whole, job))
        else:
            self._built.append(part)

    def _outcome(
        self, part: _Part, measured: Measured | None, trouble: str = "", guilty: bool = False
    ) -> Outcome:
        whole, proposal = part.whole, part.whole.proposal
        whole.parts -= 1
        if not part.is_reference:
            proposal = replace(proposal, job=part.job)
        return Outcome(proposal, measured, trouble, guilty, whole.parts == 0)
