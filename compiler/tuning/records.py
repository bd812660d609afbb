"""The records of one or more files, and which of them say how to build a kernel for a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pocketformer.compiler.tuning.record import (
    DeviceNote,
    Record,
    decode_record,
    encode_record,
)
from pocketformer.compiler.tuning.record_file import RecordFile, merge, prune
from pocketformer.schedules.workloads import Workload
from pocketformer.targets.target import Target

__all__ = ["DeviceNote", "Record", "RecordFile", "Records", "Skipped", "decode_record",
           "encode_record", "merge", "prune"]


@dataclass(frozen=True)
class Skipped:
    """A line that is no record of this version, and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Records:
    """Records in the order of their files; `skipped` are the lines that could not be read."""

    records: tuple[Record, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def load(cls, paths: str | Path | Iterable[str | Path]) -> Records:
        """All records of the files. Raises BadRecords where one is missing or no text."""
        return cls()

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def fitting(
        self, workload: Workload, target: Target, sizes: Mapping[str, int] | None = None
    ) -> list[Record]:
        """The records that say how to compute `workload` on `target`, the best first."""
        return []

    def best(
        self, workload: Workload, target: Target, sizes: Mapping[str, int] | None = None
    ) -> Record | None:
        """The first of `fitting`, None where nothing fits."""
        return next(iter(self.fitting(workload, target, sizes)), None)

    def origin(self, record: Record) -> str:
        """The file that one of these records was read from, "" where from none."""
        return ""
