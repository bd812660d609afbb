"""A folder that is made once and then kept: whole or absent, by one process at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pocketformer.compiler.cache import alone

PART = ".part-"


def make_once(folder: Path, holds: str, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make(beside)` unless it holds the file `holds` already.

    Whatever stops `make`, Ctrl-C included, leaves no `folder`; a second process waits for
    the first.
    """
    if (folder / holds).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_name(f".{folder.name}.lock")):
        if (folder / holds).exists():
            return folder
        for left in folder.parent.glob(f"{PART}{folder.name}-*"):
            shutil.rmtree(left, ignore_errors=True)     # of a process that was killed
        part = Path(tempfile.mkdtemp(prefix=f"{PART}{folder.name}-", dir=folder.parent))
        try:
            make(part)
            part.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)                   # damaged: what it should hold is not there
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder
