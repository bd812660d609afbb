"""Where pip put zig, which brings a linker and a C++ compiler for every platform."""

from __future__ import annotations

import importlib.util
import os
import shutil


def find_zig() -> str | None:
    """The program of the package ziglang, None where that is not installed."""
    spec = importlib.util.find_spec("ziglang")
    folders = spec.submodule_search_locations if spec else None
    return shutil.which("zig", path=os.pathsep.join(folders)) if folders else None
