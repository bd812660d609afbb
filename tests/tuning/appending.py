"""Processes that add records to a file: `python -m tests.tuning.appending killed | together`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time

from pocketformer.compiler.tuning.record_file import RecordFile
from tests.tuning.examples import record

BATCH = 200     # some 150 KB: a write that takes long enough to be hit


def killed(path: str, times: int) -> None:
    """A child that counts on in the file from where it stands, killed at random moments."""
    file, longest = RecordFile(path), 0.05
    for _ in range(times):
        if (child := os.fork()) == 0:
            while True:
                count = file.path.read_bytes().count(b"\n") if file.path.exists() else 0
                file.append(record(runs=count + each) for each in range(BATCH))
        time.sleep(random.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if not file.path.exists() or not file.path.stat().st_size:
            longest *= 2        # the machine is so busy that nothing was written yet


def together(path: str, names: list[str], count: int) -> None:
    """A child for each name adds `count` records with it as their target, one at a time."""
    for name in names:
        if os.fork() == 0:
            for each in range(count):
                RecordFile(path).append([record(target=name, runs=each)])
            os._exit(0)
    for _ in names:
        assert os.wait()[1] == 0


if __name__ == "__main__":
    if sys.argv[1] == "killed":
        killed(sys.argv[2], int(sys.argv[3]))
    else:
        together(sys.argv[2], sys.argv[4:], int(sys.argv[3]))
