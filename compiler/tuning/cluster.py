"""Builders on the workers of a dask cluster."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.errors import BuildFailed, BuildLost
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.tuning.builder import LocalBuilders
from pocketformer.compiler.tuning.cluster_client import ANSWER, LOST, Workers, connect
from pocketformer.compiler.tuning.cluster_worker import build

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.job import Job

LOOK = 1.0          # seconds between two looks at which workers there are
ENDING = 5.0        # seconds to say farewell
MOST_DEATHS = 2     # of all the workers that dask gives a build to, until it is the suspect


@dataclass(eq=False)
class _Build:
    """A job on its way; `workers` are the addresses that may build it now."""

    job: Job
    result: Future[bytes] = field(default_factory=Future)
    workers: frozenset[str] = frozenset()
    task: Any = None
    deaths: int = 0


class ClusterBuilders:
    """Build on the workers of the dask scheduler at `address`, such as tcp://127.0.0.1:8786.

    A build whose worker is lost is done by another. Workers may come and go; those with another
    version of TVM, LLVM or this package get nothing to build. Without its scheduler, this machine
    builds.
    """

    def __init__(
        self, address: str, timeout: float = 60.0, progress: Progress | None = None
    ) -> None:
        """Raises MissingPackage without dask, SetUpFailed where no fitting worker is found.

        A build that takes longer than `timeout` seconds is given up.
        """
        self._address, self._timeout, self._progress = address, timeout, progress or silent
        self._lock = threading.RLock()
        self._open: set[_Build] = set()
        self._here: LocalBuilders | None = None
        self._closed = threading.Event()
        self._client = connect(address)
        self._workers = Workers(self._client)
        try:
            self._workers.wait_for_one()
        except BaseException:
            self._client.close()
            raise
        threading.Thread(target=self._watch, name="cluster", daemon=True).start()

    @property
    def workers(self) -> int:
        """How many builds can run at once now."""
        return len(cpus()) if self._here else sum(self._workers.threads.values())

    @property
    def _is_open(self) -> bool:
        """Whether there is a scheduler, or dask still looks for it."""
        return self._client.status in ("running", "connecting")

    def submit(self, job: Job) -> Future[bytes]:
        """The bundle's folder as a tar; the future raises BuildFailed."""
        wanted = _Build(job)
        wanted.result.add_done_callback(lambda _: self._open.discard(wanted))
        with self._lock:
            self._open.add(wanted)
            self._start(wanted)
        return wanted.result

    def _start(self, wanted: _Build) -> None:
        """Give it to a worker, or where there is none, to the next that comes: see `_watch`."""
        if self._here:
            _pass_on(self._here.submit(wanted.job), wanted.result)
            return
        wanted.workers, wanted.task = frozenset(self._workers.threads), None
        if not wanted.workers:
            return
        try:
            wanted.task = self._client.submit(
                build, wanted.job, self._timeout,
                # dask answers an equal key, or equal arguments, with what it has, also an error.
                key=f"pocketformer-{uuid.uuid4().hex}", pure=False, workers=sorted(wanted.workers),
            )
        except Exception as error:      # of a client that is closed: an error of no class
            if self._is_open and not isinstance(error, LOST):
                raise
        else:                           # otherwise _watch begins anew, or builds here
            wanted.task.add_done_callback(lambda task: self._done(wanted, task))

    def _done(self, wanted: _Build, task: Any) -> None:
        """A task has ended, in one way or another. dask calls this in a thread of its own."""
        from distributed import KilledWorker

        if task.status == "finished":
            with suppress(CancelledError, *LOST):       # it was lost on the way: see _watch
                _tell(wanted.result, task.result(ANSWER))
                return
        error = task.exception() if task.status == "error" else None
        with self._lock:
            if isinstance(error, KilledWorker):
                wanted.deaths += 1
            if task is not wanted.task or self._closed.is_set():
                return
            if error is None or (isinstance(error, KilledWorker) and wanted.deaths < MOST_DEATHS):
                wanted.task = None          # _watch begins anew
                return
        failed = error if isinstance(error, BuildFailed) else BuildLost(
            f"{wanted.job.workload} cannot be built on the cluster: {error}"
        )
        with suppress(InvalidStateError):
            wanted.result.set_exception(failed)

    def _watch(self) -> None:
        """Start again what no worker has, or only workers that are gone."""
        try:
            while not self._closed.wait(LOOK):
                if not self._is_open:
                    self._build_here()
                    return
                self._workers.look()
                self._start_again()
        except Exception as error:      # our own mistake: it must not hang who waits for a build
            for wanted in list(self._open):
                with suppress(InvalidStateError):
                    wanted.result.set_exception(error)

    def _start_again(self) -> None:
        with self._lock:
            for wanted in list(self._open):
                lost = not wanted.workers & self._workers.threads.keys()
                if wanted.task is None or lost:
                    self._start(wanted)     # dask forgets a task that nobody holds

    def _build_here(self) -> None:
        self._progress(f"the scheduler at {self._address} is gone: building on this machine", 0.0)
        with self._lock:
            self._here = LocalBuilders(len(cpus()), self._timeout)
            for wanted in list(self._open):
                self._start(wanted)

    def close(self) -> None:
        """Give up what is not built yet and leave the cluster."""
        self._closed.set()
        with self._lock:
            waiting = list(self._open)
        for each in waiting:
            each.result.cancel()
        self._client.close(ENDING)      # the scheduler then forgets what nobody waits for
        if self._here:
            self._here.close()


def _tell(result: Future[bytes], built: bytes) -> None:
    with suppress(InvalidStateError):
        result.set_result(built)


def _pass_on(inner: Future[bytes], outer: Future[bytes]) -> None:
    """Let `outer` end as `inner` does."""
    def end(done: Future[bytes]) -> None:
        with suppress(InvalidStateError):
            if done.cancelled():
                outer.cancel()
            elif error := done.exception():
                outer.set_exception(error)
            else:
                outer.set_result(done.result())

    inner.add_done_callback(end)
