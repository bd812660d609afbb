"""A process that holds one engine and answers lines of JSON: engines never share threads or memory.

A request `{"call": METHOD, "arguments": {...}}` calls the engine's method. The reply tells its
result, how long it took and what memory it used: `{"result", "seconds", "resident_bytes",
"peak_bytes"}`, where the peak is that of this call. A failure replies `{"error", "user_error"}`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from pocketformer.compiler.errors import PocketformerError

PR_SET_PDEATHSIG = 1    # of linux/prctl.h


class WorkerFailed(Exception):
    """A worker's process died or its engine raised an error that was no user's mistake."""


def memory(field: str) -> int:
    """A size of this process in bytes, by its name in /proc: VmRSS is now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise WorkerFailed(f"/proc/self/status has no {field}")


def reset_peak() -> None:
    """Let VmHWM begin anew at the present size."""
    Path("/proc/self/clear_refs").write_text("5")


def answer(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    reset_peak()
    start = time.perf_counter()
    try:
        result = getattr(engine, request["call"])(**request["arguments"])
    except PocketformerError as error:
        return {"error": str(error), "user_error": True}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "user_error": False}
    return {
        "result": result,
        "seconds": time.perf_counter() - start,
        "resident_bytes": memory("VmRSS"),
        "peak_bytes": memory("VmHWM"),
    }


def end_with_parent() -> None:
    """Have Linux end this process with the thread that started it, even while it stands still."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(engine_name: str) -> None:
    end_with_parent()
    # Libraries print; what they print must not get into the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, cls = engine_name.partition(":")
    engine = getattr(importlib.import_module(module), cls)()
    ready = {"resident_bytes": memory("VmRSS")}
    print(json.dumps(ready), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line))), file=replies, flush=True)


class Worker:
    """The parent's end: starts `engine` ("module:Class") in a process with `threads` threads.

    `baseline_bytes` is the process's size once the engine's libraries are imported.
    """

    def __init__(self, engine: str, threads: int = 1) -> None:
        self.engine = engine
        count = str(threads)
        limits = {"TVM_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        self._log = tempfile.TemporaryFile("w+")    # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pocketformer.compiler.worker", engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **limits},
            start_new_session=True,     # so that close() finds what an engine's library started
        )
        self.baseline_bytes: int = self._read()["resident_bytes"]

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """Call the engine's method and return the reply (see above).

        Raises PocketformerError where the engine did, else WorkerFailed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass    # it died: reading its reply says how
        reply = self._read()
        if "error" in reply:
            raise (PocketformerError if reply["user_error"] else WorkerFailed)(reply["error"])
        return reply

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            reply: dict[str, Any] = json.loads(line)
            return reply
        code = self._process.wait()
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["it wrote nothing"])[-1]
        raise WorkerFailed(f"the process of {self.engine} ended with code {code}: {last}")

    def pause(self) -> None:
        """Let the process stand still, and with it threads that spin while they have no work."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process and what it started, which may hold the other ends of its pipes."""
        if self._log.closed:
            return      # the process's number may be another's by now
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):     # of a request that it never read
                pipe.close()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


if __name__ == "__main__":
    serve(sys.argv[1])
