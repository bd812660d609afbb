"""The records that `compile` is given, or those that are shipped, and which are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import pocketformer.targets
from pocketformer.compiler.tuning.points import is_default, legal, workload_key
from pocketformer.compiler.tuning.record import Record
from pocketformer.compiler.tuning.records import Records, core_of, unfit
from pocketformer.schedules.workloads import Function, Workload
from pocketformer.targets import Target

SHIPPED = Path(pocketformer.targets.__file__).parent / "records"     # a file for each processor
REASONS = 3     # in one sentence: a file may hold records of any number of processors


class HasRecords(Protocol):
    """What was found by tuning, for one."""

    @property
    def records(self) -> Records: ...


Given: TypeAlias = Records | HasRecords | str | Path | Iterable[str | Path]


def records_of(given: Given | None, variants: Sequence[Target]) -> Records:
    """`given` as records: files are read; None is what is shipped for a target's `variants`.

    Raises BadRecords for a file that is missing or holds no records.
    """
    if given is None:
        return shipped(variants)
    if isinstance(given, Records):
        return given
    if isinstance(given, str | Path):
        return Records.load([given])
    return Records.load(given) if isinstance(given, Iterable) else given.records


def shipped(variants: Sequence[Target]) -> Records:
    """What is known of the processor that is compiled for, or of all where it is for many."""
    files = sorted(SHIPPED.glob("*.jsonl"))
    if not variants[0].for_many:
        files = [file for file in files if file.stem == core_of(variants[0])]
    return Records.load(files) if files else Records()


def unused(
    records: Records, workloads: Collection[Workload], variants: Sequence[Target]
) -> list[str]:
    """Sentences about the records that say nothing of these workloads on a target's `variants`."""
    said = []
    if records.skipped:
        first = records.skipped[0]
        said.append(
            f"{_lines(len(records.skipped))} not used by this version, the first is "
            f"{first.file}:{first.number}: {first.reason}")
    by_key = {workload_key(each): each for each in workloads}
    ours = [each for each in records if workload_key(each.workload) in by_key]
    # Which functions a model has is known later: ScheduleRest says where a trace does not fit.
    traces = [each for each in records if isinstance(each.workload, Function)]
    if len(records) and not ours and not traces:
        return [*said, "no record is for a kernel of this model"]
    reasons = [_reason(each, by_key[workload_key(each.workload)], variants) for each in ours]
    said += _counted(f"of {len(ours)} records for kernels of this model", reasons)
    reasons = [_reason(each, each.workload, variants) for each in traces]
    return said + _counted(f"of {len(traces)} records for other functions", reasons)


def _counted(which: str, reasons: Iterable[str]) -> list[str]:
    """A sentence if there are reasons, of which those that are "" do not count."""
    counts = Counter(filter(None, reasons))
    most = sorted(counts.most_common(REASONS))
    counted = [f"{count} {reason}" for reason, count in most]
    if others := sum(counts.values()) - sum(count for _, count in most):
        counted.append(f"{others} for other reasons")
    return [f"{which} are not used: {'; '.join(counted)}"] if counts else []


def _reason(record: Record, workload: Workload, variants: Sequence[Target]) -> str:
    """Why a record of one of the model's workloads is not used, "" if it may be."""
    if record.error:
        return ""       # it says which point not to take
    core = record.core if variants[0].for_many else core_of(variants[0])
    if reason := unfit(record, core):
        return reason
    legal_for = [target for target in variants if legal(record.point, workload, target)]
    if not legal_for:
        return "of points that this version does not have"
    if record.default and not any(
        is_default(record.default, workload, target) for target in legal_for
    ):
        return "compared with a default point of other targets"
    return ""


def _lines(count: int) -> str:
    return f"{count} line{'s' * (count > 1)}"
