"""What can be compiled for: a target is one file in devices/, or this machine."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

from pocketformer.compiler.errors import UnknownTarget
from pocketformer.targets.target import CoreCluster, Target

__all__ = ["CoreCluster", "Target", "available", "load"]

DEVICES = Path(__file__).parent / "devices"
HOST = "host"


def available() -> list[str]:
    """The names that `load` takes, sorted."""
    return sorted([HOST, *(path.stem for path in DEVICES.glob("*.toml"))])


@cache
def load(name: str) -> Target:
    """The target with this name, which may end in `/cpu`; `host` is this machine.

    A path that ends in `.toml` is read as a device file. LLVM is asked about every processor and
    feature, because TVM compiles for a generic processor where it does not know one.
    Raises UnknownTarget with near names, and BadTarget where a device file is wrong.
    """
    from pocketformer.targets.device_file import read_device
    from pocketformer.targets.llvm import check

    if name.endswith(".toml"):
        return check(read_device(Path(name)))
    device, _, unit = name.partition("/")
    if device not in available():
        near = difflib.get_close_matches(device.lower(), available(), n=4, cutoff=0.5)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UnknownTarget(f"no target {name!r}{hint}; `pocketformer targets` lists all")
    if unit not in ("", "cpu"):
        raise UnknownTarget(
            f"target {name!r} asks for the {unit} of {device}, "
            f"only its CPU can be compiled for: {device}/cpu"
        )
    if device == HOST:
        from pocketformer.targets.host import detect

        return detect()
    return check(read_device(DEVICES / f"{device}.toml"))
