"""pocketformer_device of this machine's own runtime, in a process of a test's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pocketformer import runtime
from pocketformer.compiler.device.address import Address

TOKEN = "right-token"


class Program:
    """A running device program; leaving `with` stops it. `folder` keeps what clients upload."""

    def __init__(
        self, folder: Path, key: str = "pf", tracker: str | None = None, port: int = 0
    ) -> None:
        self.folder, self.key = folder, key
        argv = [str(runtime.build("host").device), "--port", str(port), "--key", key]
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
        until = time.monotonic() + 60
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

    def kill(self) -> None:
        """End it as a device ends that loses its power."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class TrackerProgram:
    """TVM's tracker in a process of its own, at `place`; leaving `with` kills it."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.start()

    def start(self) -> None:
        """Start it, where it was before if it was killed."""
        serve = "from pocketformer.compiler.device.tracker import serve"
        told = "lambda host, port: print(port, flush=True)"
        code = f"{serve}\nserve('127.0.0.1', {self.port}, {told})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.place = f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> TrackerProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
