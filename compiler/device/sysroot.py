"""The files of an arm64 Linux for emulated programs: a C library, a /proc/cpuinfo, perhaps Python.

A view is the folder for qemu's -L: links to the unpacked packages, and the cpuinfo of one CPU.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.device import debian, qemu
from pocketformer.compiler.device.cpuinfo import CPUS, cpuinfo
from pocketformer.compiler.device.once import make_once
from pocketformer.compiler.errors import SetUpFailed
from pocketformer.compiler.progress import Progress

LOADER = "lib/ld-linux-aarch64.so.1"
# Where the distributions' own cross C libraries lie: Debian, Ubuntu and Arch; Fedora.
INSTALLED = ("usr/aarch64-linux-gnu", "usr/aarch64-redhat-linux/sys-root/*")
# "libc" needs no second architecture in apt's sources, which Ubuntu's lack.
PACKAGES = {
    "libc": (("libc6-arm64-cross",), None),
    "python": (
        ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1", "zlib1g", "libc6"),
        "arm64",
    ),
}


def set_up(kind: str = "libc", cpu: str = "cortex-a76", progress: Progress | None = None) -> Path:
    """The folder for qemu's -L with the files of `kind` ("libc" or "python") and `cpu`'s cpuinfo.

    The first call downloads Debian's packages (1 MB, or 16 MB with Python) without root. Raises
    SetUpFailed where that is impossible, and for a CPU of another name.
    """
    if cpu not in CPUS:
        raise SetUpFailed(f"no emulated CPU {cpu!r}; one of {', '.join(CPUS)}")
    command = qemu.find(progress)
    files = _files(kind, progress)
    # A view that is in use never changes: another qemu or another number of cores has its own.
    facts = (CPUS[cpu], command, str(files), os.cpu_count())
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]

    def make(view: Path) -> None:
        for each in files.iterdir():
            if each.name != "proc":
                (view / each.name).symlink_to(each)
        (view / "proc").mkdir()
        (view / "proc" / "cpuinfo").write_text(cpuinfo(command, files, LOADER, cpu))

    return make_once(cache_folder("emulator") / f"{kind}-{cpu}-{key}", LOADER, make)


def _files(kind: str, progress: Progress | None) -> Path:
    """The folder that holds the packages' lib/ and the like."""
    inside = "." if kind == "python" else "usr/aarch64-linux-gnu"
    if kind == "libc":
        for pattern in INSTALLED:
            for each in sorted(Path("/").glob(pattern)):
                if (each / LOADER).exists():
                    return each
    folder = cache_folder("emulator") / f"{kind}-files"
    if not (folder / inside / LOADER).exists() and not debian.available():
        raise SetUpFailed(
            "the C library for emulated programs comes from Debian's packages, which takes apt-get"
            " and dpkg-deb on PATH (but no root)"
            + (f", or else from {' or '.join(f'/{each}' for each in INSTALLED)}, where the cross"
               " C libraries of other systems lie" if kind == "libc" else "")
        )
    packages, arch = PACKAGES[kind]
    make_once(
        folder, f"{inside}/{LOADER}", lambda part: debian.unpack(packages, part, arch, progress)
    )
    return (folder / inside).resolve()
