"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pocketformer.compiler.machine import memory_bytes, this_machine

PACKAGES = ("pocketformer", "apache-tvm", "apache-tvm-ffi", "onnxruntime", "numpy", "torch")


def describe() -> dict[str, Any]:
    """The processor, its instruction sets, memory, system, and the versions that matter."""
    machine = this_machine()
    return {
        "processor": _processor(),
        "family": _cpuinfo("cpu family"),
        "model": _cpuinfo("model"),
        "cores": len(os.sched_getaffinity(0)),
        "isa": sorted(machine.isa or ()),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.machine()


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == field:
            return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
