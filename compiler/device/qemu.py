"""The command that runs arm64 Linux programs here: the system's qemu, else Debian's, unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.device import debian
from pocketformer.compiler.device.once import make_once
from pocketformer.compiler.errors import SetUpFailed
from pocketformer.compiler.progress import Progress

Command = tuple[str, ...]

NAMES = ("qemu-aarch64", "qemu-aarch64-static")
PROGRAM = "usr/bin/qemu-aarch64"


def find(progress: Progress | None = None) -> Command:
    """The start of a command that runs an arm64 program.

    The first call may download a package (23 MB with what it needs) without root. Raises
    SetUpFailed where that is impossible.
    """
    _check_linux()
    for name in NAMES:
        if path := shutil.which(name):
            return (path,)
    return _unpacked(progress)


def with_plugins(progress: Progress | None = None) -> Command:
    """Like `find`, a qemu that takes `-plugin`, which Debian's static one does not."""
    _check_linux()
    for name in NAMES:
        if (path := shutil.which(name)) and _takes_plugins(path):
            return (path,)
    return _unpacked(progress)


def environment() -> dict[str, str]:
    """The variables of this process less those that change how qemu or its program starts."""
    refused = {"LD_PRELOAD", "LD_LIBRARY_PATH", "QEMU_CPU", "QEMU_LD_PREFIX", "QEMU_PLUGIN"}
    return {name: value for name, value in os.environ.items() if name not in refused}


def _check_linux() -> None:
    if sys.platform != "linux":
        raise SetUpFailed(
            "the emulated phone needs Linux, since qemu's user mode runs nowhere else; use a Linux"
            " container, a virtual machine or WSL"
        )


@cache
def _takes_plugins(path: str) -> bool:
    done = subprocess.run([path, "-h"], capture_output=True, text=True, check=False)
    return "-plugin" in done.stdout


def _unpacked(progress: Progress | None) -> Command:
    """The package's qemu, started by the C library that was unpacked with it."""
    folder = cache_folder("emulator") / "qemu"
    if not (folder / NAMES[0]).exists() and not debian.available():
        raise SetUpFailed(
            "the emulated phone needs qemu-aarch64 on PATH (the package qemu-user of Debian, Ubuntu"
            " or Fedora), or apt-get and dpkg-deb, which fetch it without root"
        )

    def make(part: Path) -> None:
        debian.unpack(["qemu-user"], part, progress=progress)
        for other in (part / PROGRAM).parent.iterdir():
            if other.name != Path(PROGRAM).name:
                other.unlink()                          # the other processors: 90 MB
        shutil.rmtree(part / "usr" / "share", ignore_errors=True)
        # Not lib64/ld-linux-*.so.2: that link is absolute and leads to the system's. Programs know
        # an emulator by the name of its process, which is that of the file that was started.
        loader = next(part.glob("lib/*/ld-linux-*.so.*"))
        (part / NAMES[0]).symlink_to(loader.relative_to(part))

    make_once(folder, NAMES[0], make)
    own = (folder / NAMES[0]).resolve().parent.name             # x86_64-linux-gnu
    libraries = f"{folder / 'lib' / own}:{folder / 'usr' / 'lib' / own}"
    return (str(folder / NAMES[0]), "--library-path", libraries, str(folder / PROGRAM))
