"""A phone without a phone: the device program for arm64 Linux in qemu's user mode."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pocketformer.compiler.device import qemu, sysroot
from pocketformer.compiler.device.cpuinfo import CPUS
from pocketformer.compiler.device.program import end, launch
from pocketformer.compiler.progress import Progress

KEY = "pocketformer"


@dataclass(frozen=True)
class Kit:
    """What emulated programs need: the command qemu, and the folder of a CPU's sysroot."""

    qemu: qemu.Command
    sysroot: Path
    cpu: str

    def command(self, argv: Sequence[str | Path], plugin: str | None = None) -> list[str]:
        """The command for the arm64 program `argv`, with a TCG plugin FILE[,NAME=VALUE]."""
        options = ["-L", str(self.sysroot), "-cpu", CPUS[self.cpu][0]]
        plugged = ["-plugin", plugin] if plugin else []
        return [*self.qemu, *options, *plugged, *map(str, argv)]


def set_up(
    cpu: str = "cortex-a76",
    *,
    kind: str = "libc",
    plugins: bool = False,
    progress: Progress | None = None,
) -> Kit:
    """The kit for `cpu`; downloads and unpacks what is not here yet, which takes no root.

    `kind` "python" adds Python and libstdc++ to the C library; `plugins` makes sure that this qemu
    takes plugins. Raises SetUpFailed where something is missing, and says what.
    """
    root = sysroot.set_up(kind, cpu, progress)
    return Kit(qemu.with_plugins(progress) if plugins else qemu.find(progress), root, cpu)


def run_program(
    argv: Sequence[str | Path],
    cpu: str = "cortex-a76",
    env: Mapping[str, str] | None = None,
    plugin: str | None = None,
    *,
    kind: str = "libc",
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run an arm64 Linux program to its end, as `subprocess.run` does; `env` adds variables.

    With `plugin`, a TCG plugin's FILE[,NAME=VALUE], in a qemu that takes plugins. `timeout` is in
    seconds; when it runs out the program is ended and subprocess.TimeoutExpired raised.
    """
    kit = set_up(cpu, kind=kind, plugins=plugin is not None)
    return subprocess.run(
        kit.command(argv, plugin),
        env={**qemu.environment(), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", check=False, timeout=timeout,
    )


class Phone:
    """A running emulated phone. `address` is where a client finds it; leaving `with` stops it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, address: str) -> None:
        self.address = address
        self.pid = process.pid
        self._process = process
        self._folder = folder

    @classmethod
    def start(
        cls,
        cpu: str = "cortex-a76",
        port: int = 0,
        key: str = KEY,
        token: str | None = None,
        tracker: str | None = None,
        folder: Path | None = None,
        *,
        progress: Progress | None = None,
    ) -> Phone:
        """Start a phone that listens on this machine alone; port 0 is any free one.

        `token` is what a client must show, by default this user's own. What clients upload is
        kept in `folder`, by default until the phone stops. Builds the native runtime if it is
        missing. Raises SetUpFailed if the phone does not start, with its own words.
        """
        from pocketformer import runtime
        from pocketformer.compiler.device.token import find_token

        kit = set_up(cpu, progress=progress)
        program = runtime.build("arm64-linux", progress=progress).device
        secret = find_token(token)
        own = Path(tempfile.mkdtemp(prefix="pocketformer-phone-"))
        argv: list[str | Path] = [program, "--port", str(port), "--key", key]
        argv += ["--folder", folder or own / "files", "--with-stdin"]
        if tracker:
            argv += ["--tracker", tracker]
        try:
            process, address = launch(
                kit.command(argv), "the emulated phone", secret, own / "log", qemu.environment()
            )
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
        return cls(process, own, f"rpc://{address}/{key}")

    @property
    def log(self) -> str:
        """What the phone has written to its log so far."""
        return (self._folder / "log").read_text(errors="replace")

    def is_running(self) -> bool:
        """Whether it has not ended, or been killed."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until the phone ends by itself; its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """End the phone and everything in it, and remove its files. May be called again."""
        end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Phone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
