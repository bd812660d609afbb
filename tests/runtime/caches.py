"""Cache folders of a test's own, in which the slow parts of a build are done already."""

from __future__ import annotations

from pathlib import Path

from pocketformer.compiler.cache import cache_folder


def compiled(folder: Path) -> Path:
    """A cache in `folder` that holds all objects, so that a build has only to link."""
    with_standard_libraries(folder)
    (folder / "runtime").mkdir()
    (folder / "runtime/objects").symlink_to(cache_folder("runtime", "objects"))
    return folder


def with_standard_libraries(folder: Path) -> Path:
    """A cache in `folder` that holds what zig compiles once for all."""
    folder.mkdir()
    (folder / "zig").symlink_to(cache_folder("zig"))
    return folder


def left_in(folder: Path) -> set[str]:
    """The names in the cache at `folder` of what builds made, objects and locks left out."""
    names = {path.name for path in (folder / "runtime").iterdir()}
    return {name for name in names if name != "objects" and not name.endswith(".lock")}
