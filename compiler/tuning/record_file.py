"""A file of records: lines are only ever added, whole or not at all, by one process at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pocketformer.compiler.tuning.record import Record


class RecordFile:
    """Adds records to the file at `path`, which is made with the first."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, records: Iterable[Record]) -> None:
        """Add `records`; returns when they are on the disk. Raises OSError and adds none."""


def merge(paths: Iterable[str | Path]) -> list[str]:
    """The lines of all the files, each once, in the order in which they first come."""
    return []


def prune(path: str | Path, keep: int) -> list[str]:
    """The lines of a file, of those of one workload on one processor the best `keep` alone."""
    return []
