"""pocketformer_device of this machine's own runtime, in a process of a test's."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil

from pocketformer import runtime
from pocketformer.compiler.device.address import Address

TOKEN = "right-token"


class Program:
    """A running device program; leaving `with` stops it. `folder` keeps what clients upload."""

    def __init__(self, folder: Path, key: str = "pf", tracker: str | None = None) -> None:
        self.folder, self.key = folder, key
        argv = [str(runtime.build("host").device), "--port", "0", "--key", key]
        argv += ["--folder", str(folder), *(["--tracker", tracker] if tracker else [])]
        self.process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "POCKETFORMER_TOKEN": TOKEN},
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline().split()
        assert ready[0] == "ready", ready
        self.address = Address.parse(f"{ready[1]}/{key}")

    @property
    def child(self) -> psutil.Process:
        """The process that serves the client of now."""
        until = time.monotonic() + 5
        while not (children := psutil.Process(self.process.pid).children()):
            assert time.monotonic() < until, "no client is served"
            time.sleep(0.01)
        (child,) = children
        return child

    @property
    def stored(self) -> set[str]:
        """The names of the files that clients have uploaded, or begun to."""
        kept = self.folder / "files"
        return {file.name for file in kept.iterdir()} if kept.exists() else set()

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
