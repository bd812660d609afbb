"""This machine as a device: its own device program, which a kernel may crash instead of us."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import threading
from pathlib import Path

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.program import end, launch
from pocketformer.compiler.errors import DeviceLost
from pocketformer.compiler.progress import Progress

KEY = "host"


class Loopback:
    """The device program of this machine's runtime, for one that knows `token`.

    What clients upload is kept until it ends: with `stop`, `close`, or this process. Threads may
    share it.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        """Builds the runtime if it is missing. Raises BuildFailed, SetUpFailed."""
        from pocketformer import runtime

        self.token = secrets.token_urlsafe(32)
        self._program = runtime.build("host", progress=progress).device
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._closed = threading.RLock(), False
        self.address = self.revive()

    def revive(self) -> Address:
        """Where it listens, after it was started again if it had ended.

        Raises SetUpFailed, and DeviceLost once it is closed.
        """
        with self._lock:
            if self._closed:
                raise DeviceLost("this machine's device program is not needed any more")
            if self._process is None or self._process.poll() is not None:
                self.stop()
                self.address = self._started()
            return self.address

    def _started(self) -> Address:
        argv = [str(self._program), "--port", "0", "--key", KEY, "--with-stdin"]
        with tempfile.TemporaryDirectory(prefix="pocketformer-") as folder:
            self._process, place = launch(
                argv, "this machine's device program", self.token, Path(folder) / "log", os.environ
            )
        return Address.parse(f"{place}/{KEY}")

    def stop(self) -> None:
        """End the program; `revive` would start it again."""
        with self._lock:
            if self._process is not None:
                end(self._process)
                self._process = None

    def close(self) -> None:
        """End the program for good."""
        with self._lock:
            self._closed = True
            self.stop()
