"""This machine as a device: its own device program, which a kernel may crash instead of us."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from pathlib import Path

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.program import end, launch
from pocketformer.compiler.progress import Progress

KEY = "host"


class Loopback:
    """The device program of this machine's runtime, for one that knows `token`.

    What clients upload is kept until it ends: with `stop`, or with this process.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        """Builds the runtime if it is missing. Raises BuildFailed, SetUpFailed."""
        from pocketformer import runtime

        self.token = secrets.token_urlsafe(32)
        self._program = runtime.build("host", progress=progress).device
        self._process: subprocess.Popen[bytes] | None = None
        self.address = self.revive()

    def revive(self) -> Address:
        """Where it listens, after it was started again if it had ended. Raises SetUpFailed."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            argv = [str(self._program), "--port", "0", "--key", KEY, "--with-stdin"]
            with tempfile.TemporaryDirectory(prefix="pocketformer-") as folder:
                self._process, place = launch(
                    argv, "this machine's device program", self.token, Path(folder) / "log",
                    os.environ,
                )
            self.address = Address.parse(f"{place}/{KEY}")
        return self.address

    def stop(self) -> None:
        """End the program; `revive` would start it again."""
        if self._process is not None:
            end(self._process)
            self._process = None
