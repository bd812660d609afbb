"""The target `host`: the processor of this machine, as LLVM and Linux tell it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from pocketformer.compiler.errors import UnknownTarget
from pocketformer.targets.llvm import features, instruction_sets
from pocketformer.targets.target import PLATFORMS, CoreCluster, Target

SYSTEM_CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")
# Where the system does not tell; every processor of the last fifteen years has as much.
L1D, L2 = 32 * 1024, 256 * 1024

# LLVM's feature -> its word in /proc/cpuinfo, for what generated code may contain. LLVM's model of
# a processor has them all; a virtual machine or the kernel may hide some.
WORDS = {
    "x86_64": {
        "sse4.1": "sse4_1", "sse4.2": "sse4_2", "popcnt": "popcnt", "movbe": "movbe",
        "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c",
        "bmi": "bmi1", "bmi2": "bmi2", "lzcnt": "abm",
        "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd",
        "avx512dq": "avx512dq", "avx512vl": "avx512vl", "avx512ifma": "avx512ifma",
        "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni",
        "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16",
        "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq",
        "avxvnni": "avx_vnni", "gfni": "gfni", "vaes": "vaes", "vpclmulqdq": "vpclmulqdq",
    },
    "aarch64": {
        "neon": "asimd", "crc": "crc32", "aes": "aes", "sha2": "sha2", "lse": "atomics",
        "rdm": "asimdrdm", "fullfp16": "asimdhp", "fp16fml": "asimdfhm", "dotprod": "asimddp",
        "complxnum": "fcma", "jsconv": "jscvt", "rcpc": "lrcpc", "i8mm": "i8mm", "bf16": "bf16",
        "sve": "sve", "sve2": "sve2", "sme": "sme",
    },
}


def detect() -> Target:
    """This machine: its processor, the features that its kernel shows, its caches and cores.

    Raises UnknownTarget on a system or architecture that cannot be compiled for.
    """
    arch, system = platform.machine(), platform.system().lower()
    if system != "linux" or arch not in WORDS:
        raise UnknownTarget(
            f"target 'host' needs Linux on x86-64 or 64-bit ARM, this is {system} on {arch}; "
            f"name another target, such as arm64-android"
        )
    from tvm.target import codegen

    mcpu = str(codegen.llvm_get_system_cpu())
    triple = PLATFORMS[arch, system].triple
    words = _words(CPUINFO)
    mattr = _differences(arch, features(triple, mcpu), words) if words else ()
    caches = _caches(SYSTEM_CPUS)
    cluster = CoreCluster(
        name="all",
        count=_physical_cores(SYSTEM_CPUS),
        mcpu=mcpu,
        l1d=caches.get(1, L1D),
        l2=caches.get(2, L2),
        max_ghz=_max_ghz(SYSTEM_CPUS),
    )
    return Target(
        name="host",
        description=f"this machine ({_model_name(CPUINFO) or mcpu})",
        arch=arch,
        os=system,
        mcpu=mcpu,
        mattr=mattr,
        isa=instruction_sets(arch, features(triple, mcpu, mattr)),
        cores=(cluster,),
        l3=caches.get(3, 0),
    )


def _differences(arch: str, model: frozenset[str], words: frozenset[str]) -> tuple[str, ...]:
    """What to add to and take from LLVM's `model` of the processor to get the real one."""
    mattr = []
    for feature, word in WORDS[arch].items():
        if (word in words) != (feature in model):
            mattr.append(("+" if word in words else "-") + feature)
    if "prefer-256-bit" in model:
        # LLVM's choice for code with few vectors; ours spends its time in full ones.
        mattr.append("-prefer-256-bit")
    return tuple(mattr)


def _words(cpuinfo: Path) -> frozenset[str]:
    """The feature words that all cores share, empty where the file does not tell."""
    found = re.findall(r"^(?:flags|Features)\s*:(.*)$", _read(cpuinfo), re.MULTILINE)
    return frozenset.intersection(*(frozenset(line.split()) for line in found or [""]))


def _model_name(cpuinfo: Path) -> str | None:
    found = re.search(r"^model name\s*:\s*(.+)$", _read(cpuinfo), re.MULTILINE)
    return found[1].strip() if found else None


def _caches(cpus: Path) -> dict[int, int]:
    """Bytes by level, of the data or unified caches of the first core."""
    sizes = {}
    for index in cpus.glob("cpu0/cache/index*"):
        size = re.fullmatch(r"(\d+)K", _read(index / "size").strip())
        level = _read(index / "level").strip()
        if size and level and _read(index / "type").strip() != "Instruction":
            sizes[int(level)] = int(size[1]) * 1024
    return sizes


def _physical_cores(cpus: Path) -> int:
    """The cores that this process may use; threads of one core count once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = _read(cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").strip()
        cores.add(siblings or str(cpu))
    return len(cores)


def _max_ghz(cpus: Path) -> float:
    kilohertz = _read(cpus / "cpu0" / "cpufreq" / "cpuinfo_max_freq").strip()
    return int(kilohertz) / 1e6 if kilohertz else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
