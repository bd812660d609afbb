"""A folder that is written beside its place and takes it at once, or leaves no trace.

And whether something can be written in a place, told before the work.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketformer.compiler.errors import BadInput

_EXCHANGE = 2           # RENAME_EXCHANGE of Linux's renameat2
_AT_FDCWD = -100
_FRESH = 60.0           # seconds during which another process may not have locked its folder yet


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that becomes `path` when the body ends, and is removed when it fails.

    A folder that is at `path` stays whole until that moment, and is removed after it. A process
    that is killed leaves its folder `NAME.tmp-*` behind; the next save of the same name removes it.
    Raises OSError where the system does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    temporary.mkdir()
    lock = os.open(temporary, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)        # the kernel lets go of it even if we are killed
        yield temporary
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        _exchange(temporary, path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def check_file(place: Path, wanted: str) -> None:
    """Raises BadInput where no file can be put at `place`; `wanted` says what takes one."""
    if place.is_dir():
        raise BadInput(f"{place} is a folder, {wanted}")
    if not place.absolute().parent.is_dir():
        raise BadInput(f"there is no folder {place.parent} for {place.name}")
    try:
        check_writable(place.absolute().parent)
    except OSError as error:
        raise BadInput(f"{place} cannot be written: {error.strerror}") from None


def check_writable(folder: Path) -> None:
    """Raises OSError where no file can be made in `folder`, or in what there is of its path."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".pocketformer-"):
        pass


def _remove_stale(path: Path) -> None:
    for folder in path.parent.glob(f"{glob.escape(path.name)}.tmp-*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _FRESH:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _flush(path: Path) -> None:
    """Make sure that `path` is on the disk, since the old folder is about to go."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, place: Path) -> None:
    """Put `new` in `place`; what was there is afterwards at `new`."""
    if not place.exists():
        new.rename(place)
        return
    if _exchange_at_once(new, place):
        return
    # A file system that cannot exchange: for a moment there is nothing in the place.
    aside = place.with_name(f"{new.name}-old")
    place.rename(aside)
    try:
        new.rename(place)
    except OSError:
        aside.rename(place)
        raise
    aside.rename(new)


def _exchange_at_once(new: Path, place: Path) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(new), os.fsencode(place)
    return rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE) == 0
