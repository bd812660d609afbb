"""Builds jobs in processes of their own, which a crash of the compiler or a time limit may end."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from signal import SIGKILL
from threading import Event, Thread, Timer
from typing import IO, Any

from pocketformer.compiler.errors import BuildFailed, BuildLost, PocketformerError
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.worker import end_with_parent

IMPORTING = 120.0       # seconds that a process may take to be ready on a busy machine

_Waiting = tuple[Job, "Future[bytes]"]


class LocalBuilders:
    """`workers` processes that build jobs; one whose job takes over `timeout` seconds is killed.

    They live until `close()`, the end of a `with` block or that of this process.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._workers = [_Worker(self._queue, timeout) for _ in range(workers)]

    @property
    def workers(self) -> int:
        """How many builds can run at once."""
        return len(self._workers)

    def submit(self, job: Job) -> Future[bytes]:
        """The bundle of `job`, as kernel_bundle.build makes it, once it is done.

        The future raises BuildFailed, which names the points, where they cannot be built; what
        `job.split()` gives then tells which of them it is. It raises BuildLost where that is no
        point's fault: it took too long, was killed, or there is no room.
        """
        future: Future[bytes] = Future()
        self._queue.put((job, future))
        return future

    def close(self) -> None:
        """End all processes at once; waiting jobs are cancelled, the others raise BuildFailed."""
        for worker in self._workers:
            worker.close()
        for _ in self._workers:
            self._queue.put(None)
        for worker in self._workers:
            worker.join()

    def __enter__(self) -> LocalBuilders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker(Thread):
    """Hands one job after another to a process, and starts another where that has died."""

    def __init__(self, queue: SimpleQueue[_Waiting | None], timeout: float) -> None:
        super().__init__(name="pocketformer-builder", daemon=True)
        self._queue, self._timeout = queue, timeout
        self._closed = False
        self._process: _Process | None = None
        self.start()

    def run(self) -> None:
        # Before the first job comes: importing takes longer than building.
        with suppress(BuildFailed):
            self._ready()
        while (waiting := self._queue.get()) is not None:
            job, future = waiting
            if self._closed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._ready().build(job, self._timeout))
            except Exception as error:      # the caller's, whatever it is
                future.set_exception(error)
        if self._process:
            self._process.end()

    def close(self) -> None:
        self._closed = True
        if process := self._process:
            process.end()

    def _ready(self) -> _Process:
        """The process, started anew where it has ended."""
        if self._process is None or self._process.ended:
            self._process = _Process()
            if self._closed:
                self._process.end()
            self._process.wait_until_ready()
        return self._process


class _Process:
    """A process that reads pickled jobs and answers with what was built, or an error's text."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+")    # noqa: SIM115 - it ends with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pocketformer.compiler.tuning.builder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,     # Ctrl-C is for who waits; and the linker is killed with it
        )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        self._answer("a process for building cannot be started", IMPORTING, BuildLost)

    def build(self, job: Job, timeout: float) -> bytes:
        """Raises BuildFailed."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):     # its answer says how it ended
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()
        built = self._answer(f"{_named(job)} cannot be built", timeout)
        assert isinstance(built, bytes)
        return built

    def _answer(
        self, failed: str, timeout: float, crash: type[BuildFailed] = BuildFailed
    ) -> Any:
        late = Event()

        def give_up() -> None:
            late.set()
            self.end()

        timer = Timer(timeout, give_up)
        timer.start()
        try:
            failure, error, value = pickle.load(self._process.stdout)   # type: ignore[arg-type]
        except (EOFError, pickle.UnpicklingError):
            self.end()
            why = f"it took over {timeout:g} s" if late.is_set() else self._last_words()
            # A compiler that crashes does so again; one that was killed or is slow does not.
            lost = late.is_set() or self._process.returncode == -SIGKILL
            raise (BuildLost if lost else crash)(f"{failed}: {why}") from None
        finally:
            timer.cancel()
        if failure:
            raise failure(f"{failed}: {error}")
        return value

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        code = self._process.returncode
        return f"the process ended with code {code}" + (f": {lines[-1]}" if lines else "")

    def end(self) -> None:
        """Kill it and what it has started; it is gone afterwards."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()


def _named(job: Job) -> str:
    first, *others = job.points[1:] or job.points
    point = f"one of {len(others) + 1} points of {type(first).__name__}" if others else first
    return f"{job.workload} by {point}"


def serve(jobs: IO[bytes], answers: IO[bytes]) -> None:
    """Answer every job of `jobs` until there are no more."""
    from pocketformer.compiler.tuning.kernel_bundle import build

    def answer(value: object, failure: type[BuildFailed] | None = None, error: str = "") -> None:
        pickle.dump((failure, error, value), answers)
        answers.flush()

    answer(None)
    while True:
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        try:
            built = build(job)
        except PocketformerError as error:
            answer(None, BuildFailed, str(error))
        except OSError as error:        # no room, too many files
            answer(None, BuildLost, str(error))
        except Exception as error:      # of TVM: of any class, its first line says what it is
            words = str(error).strip().splitlines() or [""]
            answer(None, BuildFailed, f"{type(error).__name__}: {words[0]}")
        else:
            answer(built)


if __name__ == "__main__":
    end_with_parent()
    # Libraries print; what they print must not get into the answers.
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, replies)
