"""Device programs that are started here: until they listen, and to their end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pocketformer.compiler.errors import SetUpFailed

READY_WITHIN = 30.0     # seconds; it takes 0.3 on an idle machine


def launch(
    command: Sequence[str], what: str, token: str, log: Path, env: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], str]:
    """Start the device program that `command` is; the process, and HOST:PORT once it listens there.

    `command` has the option --with-stdin, by which it ends with this process, even if that is
    killed. Its errors are written to `log`. Raises SetUpFailed, which begins with `what`.
    """
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            env={**env, "POCKETFORMER_TOKEN": token},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True,     # end() ends all that it forks; Ctrl-C reaches us alone
        )
    try:
        line = _first_line(process, READY_WITHIN)
        if line.startswith("ready "):
            return process, line.split()[1]
        said = log.read_text(errors="replace").strip().splitlines()
        cause = said[-1].removeprefix("pocketformer_device: ") if said else "it said nothing"
        if not line and process.poll() is None:
            cause = f"it was not ready within {READY_WITHIN:.0f} s"
        raise SetUpFailed(f"{what} did not start: {cause}")
    except BaseException:
        end(process)
        raise


def _first_line(process: subprocess.Popen[bytes], seconds: float) -> str:
    """The first line that it prints; empty if it ends, or says nothing for so long."""
    assert process.stdout is not None
    deadline, read = time.monotonic() + seconds, b""
    while b"\n" not in read:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return ""
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            process.wait(max(0.1, deadline - time.monotonic()))
            return ""
        read += piece
    return read.split(b"\n")[0].decode(errors="replace")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the program and all that it started. May be called again."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)          # a session that outlived its server
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
