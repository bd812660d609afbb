"""What a batch measured as records, and what the records of a file say of a tuning's tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pocketformer
from pocketformer.compiler.errors import DeviceRefused
from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.tuning.measure import Measured
from pocketformer.compiler.tuning.record import MEASURED, DeviceNote, Record
from pocketformer.compiler.tuning.tasks import Task


@dataclass(frozen=True)
class Setting:
    """What all records of a tuning have in common: versions, and what was measured on."""

    target: str
    core: str
    threads: int
    device: str
    emulated: bool
    tvm: str = version_of("apache-tvm")
    pocketformer: str = pocketformer.__version__

    def counts(self, record: Record) -> bool:
        """Whether `record` is a trial as this tuning would make it, however it ended."""
        return record.source == MEASURED and record.emulated == self.emulated and (
            (record.core, record.threads, record.tvm, record.pocketformer)
            == (self.core, self.threads, self.tvm, self.pocketformer)
        )

    def known(self, task: Task, records: Iterable[Record], default: Any) -> list[Record]:
        """The trials of `task` beside the point `default` that need not be made again."""
        sizes = dict(task.sizes)
        return [
            record
            for record in records
            if record.workload == task.workload and record.sizes == sizes
            and record.default in (None, default) and self.counts(record)
        ]

    def records(self, job: Job, measured: Measured, confirmed: bool = False) -> list[Record]:
        """A record for each of the job's points but the first, which is their reference.

        Raises DeviceRefused where the device ran other threads than were measured before.
        """
        if measured.threads != self.threads:
            raise DeviceRefused(
                f"a device ran {measured.threads} threads, the others {self.threads}; "
                "say how many with --threads"
            )
        reference = measured.timings[0]
        assert not isinstance(reference, str)
        info = measured.info
        device = DeviceNote(
            info.name if info else self.device, self.core, self.emulated,
            measured.celsius, measured.mhz,
        )
        found = []
        for point, timing in zip(job.points[1:], measured.timings[1:], strict=True):
            if isinstance(timing, str):
                found.append(self._record(job, point, device, error=timing))
            else:
                found.append(self._record(
                    job, point, device, median_us=timing.us, default_us=timing.us / timing.ratio,
                    spread=timing.spread, runs=timing.runs, confirmed=confirmed,
                ))
        return found

    def failed(self, job: Job, why: str) -> list[Record]:
        """The record of a job whose only trial could not be built."""
        (point,) = job.points[1:]
        return [self._record(job, point, None, error=why)]

    def _record(
        self, job: Job, point: Any, device: DeviceNote | None, *, error: str = "",
        median_us: float | None = None, default_us: float | None = None,
        spread: float = 0.0, runs: int = 0, confirmed: bool = False,
    ) -> Record:
        return Record(
            workload=job.workload,
            point=point,
            sizes=dict(job.sizes),
            target=self.target,
            core=self.core,
            threads=self.threads,
            source=MEASURED,
            median_us=median_us,
            default_us=default_us,
            spread=spread,
            runs=runs,
            device=device,
            tvm=self.tvm,
            pocketformer=self.pocketformer,
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            confirmed=confirmed,
            error=error,
            default=job.points[0],
        )
