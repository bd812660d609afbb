"""Where what was built or downloaded once is kept for the next time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """The folder `parts` below POCKETFORMER_CACHE, else below the user's cache; made if missing."""
    chosen = os.environ.get("POCKETFORMER_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(chosen) if chosen else user / "pocketformer").joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()
