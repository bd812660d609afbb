"""This machine as a device: its own device program, which a kernel may crash instead of us."""

from __future__ import annotations

import os
import secrets
import shutil
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
        self._folder = Path(tempfile.mkdtemp(prefix="pocketformer-host-"))
        try:
            self.address = self.revive()
        except BaseException:
            self.stop()
            raise

    def revive(self) -> Address:
        """Where it listens, after it was started again if it had ended. Raises SetUpFailed."""
        if self._process is None or self._process.poll() is not None:
            self.halt()
            argv = [str(self._program), "--port", "0", "--key", KEY, "--with-stdin"]
            self._process, place = launch(
                argv, "this machine's device program", self.token, self._folder / "log",
                {**os.environ, "TMPDIR": str(self._folder)},
            )
            self.address = Address.parse(f"{place}/{KEY}")
        return self.address

    def halt(self) -> None:
        """End the program; `revive` starts it again."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def stop(self) -> None:
        """End the program for good, and remove its files. May be called again."""
        self.halt()
        shutil.rmtree(self._folder, ignore_errors=True)
