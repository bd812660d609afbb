"""What this machine is, told without TVM: architecture, system, instruction sets, CPUs."""

from __future__ import annotations

import os
import platform
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ARCHITECTURES = {
    "x86_64": "x86_64", "amd64": "x86_64",
    "aarch64": "aarch64", "arm64": "aarch64",
    "arm": "arm", "armv7l": "arm", "armv8l": "arm",
}
# The words of /proc/cpuinfo that together make up a name of Target.isa.
FEATURES = {
    "x86_64": {
        "sse4": "sse4_1 sse4_2",
        "avx": "avx",
        "avx2": "avx2",
        "fma": "fma",
        "avx512f": "avx512f avx512bw avx512cd avx512dq avx512vl",   # LLVM's CPUs have all or none
        "avx512vnni": "avx512_vnni",
        "avx512bf16": "avx512_bf16",
    },
    "aarch64": {
        "neon": "asimd",
        "dotprod": "asimddp",
        "fp16": "fphp asimdhp",
        "i8mm": "i8mm",
        "bf16": "bf16",
        "sve": "sve",
        "sve2": "sve2",
    },
    "arm": {"neon": "neon", "dotprod": "asimddp", "fp16": "fphp asimdhp", "i8mm": "i8mm"},
}


@dataclass(frozen=True)
class Machine:
    """`words` are /proc/cpuinfo's names of the processor's features, None if it does not tell."""

    arch: str
    os: str
    words: frozenset[str] | None = None

    @property
    def isa(self) -> frozenset[str] | None:
        """The instruction sets by the names of Target.isa, None where the system does not tell."""
        if self.words is None or self.arch not in FEATURES:
            return None
        table = FEATURES[self.arch].items()
        return frozenset(name for name, needs in table if self.words >= set(needs.split()))

    def __str__(self) -> str:
        return f"{self.arch} {self.os}"


@cache
def this_machine() -> Machine:
    """The machine and system that this process runs on."""
    arch = ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower())
    if arch == "aarch64" and struct.calcsize("P") == 4:
        arch = "arm"                                    # a 32-bit process under a 64-bit kernel
    system = "android" if hasattr(sys, "getandroidapilevel") else sys.platform
    return Machine(arch, system, read_words(Path("/proc/cpuinfo")))


def read_words(cpuinfo: Path) -> frozenset[str] | None:
    """The words for the features of a processor in `cpuinfo`, None where it has none."""
    try:
        with cpuinfo.open() as lines:
            for line in lines:                          # every core repeats it: the first will do
                key, _, value = line.partition(":")
                if key.strip() in ("flags", "Features"):
                    words = set(value.split())
                    if "asimd" in words:
                        words.add("neon")               # its name in a 32-bit process
                    return frozenset(words)
    except OSError:
        pass
    return None


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cpus() -> tuple[int, ...]:
    """The numbers of the CPUs that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
