"""The records of one or more files, and which of them say how to build a kernel for a target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.tuning.points import Point, is_default, legal, workload_key
from pocketformer.compiler.tuning.ranking import ranked
from pocketformer.compiler.tuning.record import Record
from pocketformer.compiler.tuning.record_file import Line, read_lines
from pocketformer.schedules.workloads import Workload
from pocketformer.targets.target import Target

Sizes: TypeAlias = frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Records:
    """Records in the order of their files.

    `skipped` are the lines of those files that are no records of this version.
    """

    records: tuple[Record, ...] = ()
    skipped: tuple[Line, ...] = ()
    origins: tuple[str, ...] = ()       # the file of each record, where they come from files

    @classmethod
    def load(cls, paths: str | Path | Iterable[str | Path]) -> Records:
        """All records of the files. Raises BadRecords where one cannot be read."""
        files = [paths] if isinstance(paths, str | Path) else paths
        lines = [line for file in files for line in read_lines(file)]
        return cls(
            tuple(line.record for line in lines if line.record),
            tuple(line for line in lines if not line.record),
            tuple(line.file for line in lines if line.record),
        )

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def fitting(self, workload: Workload, target: Target, core: str = "") -> list[Record]:
        """The records that say how to compute `workload` on `target`, the best first.

        They are of `core` (by default the one that `target` is tuned for) and of this TVM, have no
        error, and a point that is legal for `target`, compared with the default one of `target`.
        Of several records of a point that were made in the same way there is one, with their middle
        gain.
        """
        core = core or core_of(target)
        fit = [
            record for record in self._of(workload)
            if not unfit(record, core) and legal(record.point, workload, target)
            and (record.default is None or is_default(record.default, workload, target))
        ]
        return ranked(fit, target.threads)

    def failed(self, workload: Workload, core: str) -> set[Point]:
        """The points that failed on `core` with this TVM, at some size every time."""
        failed: set[tuple[Point, Sizes]] = set()
        passed: set[tuple[Point, Sizes]] = set()
        for record in self._of(workload):
            if not _foreign(record, core):
                tried = record.point, frozenset(record.sizes.items())
                (failed if record.error else passed).add(tried)
        return {point for point, _ in failed - passed}

    def _of(self, workload: Workload) -> list[Record]:
        return self._by_workload.get(workload_key(workload), [])

    def origin(self, record: Record) -> str:
        """The file that one of these records was read from, "" where from none."""
        return self._origins.get(id(record), "")

    @cached_property
    def _by_workload(self) -> Mapping[str, list[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for record in self:
            found[workload_key(record.workload)].append(record)
        return found

    @cached_property
    def _origins(self) -> Mapping[int, str]:
        return {
            id(record): origin
            for record, origin in zip(self.records, self.origins, strict=bool(self.origins))
        }


def core_of(target: Target) -> str:
    """LLVM's name of the processor that code for `target` is tuned for."""
    return target.cores[0].mcpu


def unfit(record: Record, core: str) -> str:
    """Why `record` says nothing about `core` with this TVM, "" if it does.

    Whether its point is legal is another question.
    """
    return "the point failed" if record.error else _foreign(record, core)


def _foreign(record: Record, core: str) -> str:
    """Why the record was made elsewhere than on `core` with this TVM, "" if it was not."""
    if record.emulated:
        return "timed on an emulator"
    if record.core != core:
        return f"of {record.core}, not of {core}"
    if record.tvm != (ours := version_of("apache-tvm")):
        return f"of TVM {record.tvm}, this is {ours}"
    return ""
