"""Where what was built or downloaded once is kept for the next time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """The folder `parts` below POCKETFORMER_CACHE, else below the user's cache; made if missing."""
    chosen = os.environ.get("POCKETFORMER_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(chosen) if chosen else user / "pocketformer").joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait for whoever holds the file `lock`, and hold it; it is free again when its holder dies.

    Windows has no such lock: there nobody waits.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
