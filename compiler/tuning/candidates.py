"""What records say about one workload on one target: how much faster which points are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeAlias

from pocketformer.compiler.tuning.points import Point
from pocketformer.compiler.tuning.ranking import order_of, sureness
from pocketformer.compiler.tuning.record import ESTIMATED, MEASURED, Record
from pocketformer.compiler.tuning.records import Records
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target

# A kernel may be slower than the default in one situation, if the others gain more: by the noise.
NOISE = 1.02
# What an estimate must promise: it knows nothing of memory.
PROMISED = 1.05

Layout: TypeAlias = tuple[Any, ...] | None
# What a record was made in: a processor, and the sizes that the workload leaves open.
Situation: TypeAlias = tuple[str, tuple[tuple[str, int], ...]]


def layout_of(point: Point) -> Layout:
    """How the weight lies that the kernel of `point` reads, None for one that reads none.

    Two points of the same workload read the same packed weight if this is the same; so do two
    workloads with the same weight.
    """
    layout: Layout = getattr(point, "layout", None)
    return layout


@dataclass(frozen=True)
class Candidate:
    """A point that takes `ratio` of the default point's time, on average over all situations.

    Where it is slower in one of several, `ratio` is of that one: no gain elsewhere makes up for it.
    `told` says where that is known from.
    """

    point: Point
    ratio: float
    told: str


@dataclass(frozen=True)
class Known:
    """All that records say: for each layout of weights the fastest point.

    `default_us` is what the default point takes, None where there is no record. `failed` are the
    points that crash or cannot be built.
    """

    fastest: Mapping[Layout, Candidate]
    default_us: float | None = None
    failed: frozenset[Point] = field(default=frozenset())


def known_of(
    workload: Workload, default: Point, target: Target, cores: Iterable[str], records: Records
) -> Known:
    """What `records` of the processors `cores` say of `workload` on `target`."""
    fitting = {core: records.fitting(workload, target, core) for core in cores}
    failed = frozenset(point for core in fitting for point in records.failed(workload, core))
    found = _surest(fitting, target.threads)
    if not found:
        return Known({}, failed=failed)
    confirmed = [each for each, group in found.items() if any(one.confirmed for one in group)]
    by_layout: dict[Layout, list[Candidate]] = defaultdict(list)
    for point, its in _by_point(found).items():
        candidate = _candidate(point, its, found.keys(), confirmed, records)
        if point != default and point not in failed:
            by_layout[layout_of(point)].append(candidate)
    default_us = fmean(
        median(record.default_us or 0.0 for record in group) for group in found.values()
    )
    fastest = {
        layout: min(group, key=lambda each: (each.ratio, order_of(each.point)))
        for layout, group in by_layout.items()
    }
    return Known(fastest, default_us, failed)


def _surest(
    fitting: Mapping[str, Iterable[Record]], threads: int
) -> dict[Situation, list[Record]]:
    """Of the records of each processor those that count; estimates where nothing was measured.

    Of the layouts whose points were timed again at the end of a search, only these times.
    """
    sources = {record.source for group in fitting.values() for record in group}
    best_source = MEASURED if MEASURED in sources else ESTIMATED
    found: dict[Situation, list[Record]] = defaultdict(list)
    for core, group in fitting.items():
        kinds: dict[tuple[bool, ...], list[Record]] = defaultdict(list)
        for record in group:
            if record.source == best_source:
                kinds[sureness(record, threads)].append(record)
        best = kinds[max(kinds)] if kinds else []
        confirmed = {layout_of(record.point) for record in best if record.confirmed}
        for record in best:
            if record.confirmed or layout_of(record.point) not in confirmed:
                found[core, tuple(sorted(record.sizes.items()))].append(record)
    return found


def _by_point(
    found: Mapping[Situation, list[Record]]
) -> dict[Point, dict[Situation, list[Record]]]:
    points: dict[Point, dict[Situation, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for situation, group in found.items():
        for record in group:
            points[record.point][situation].append(record)
    return points


def _candidate(
    point: Point, its: Mapping[Situation, list[Record]], situations: Collection[Situation],
    confirmed: Collection[Situation], records: Records,
) -> Candidate:
    """`point` as a candidate; where it was not tried, it counts as fast as the default.

    `confirmed` are the situations in which the best points were timed again. A gain that is
    estimated and little is none.
    """
    ratios = {
        situation: _ratio(group, situation in confirmed) for situation, group in its.items()
    }
    ratio = fmean(ratios.get(situation, 1.0) for situation in situations)
    if (slowest := max(ratios.values())) > NOISE:
        ratio = slowest
    estimated = any(each.source != MEASURED for group in its.values() for each in group)
    if estimated and ratio * PROMISED > 1.0:
        ratio = max(ratio, 1.0)
    return Candidate(point, ratio, _told(its, 1 / ratio, records))


def _ratio(group: Iterable[Record], confirmed: bool) -> float:
    """The time of a point as a share of the default's.

    With so many points some are fast by luck: one that was `confirmed` to be none of the best,
    because others were, gains nothing.
    """
    return median(
        1 / each.gain if each.confirmed or not confirmed else max(1.0, 1 / each.gain)
        for each in group
    )


def _told(its: Mapping[Situation, list[Record]], gain: float, records: Records) -> str:
    """Where the gain of a point is known from, in a few words."""
    all_ = [record for group in its.values() for record in group]
    first = all_[0]
    files = sorted({Path(origin).name for each in all_ if (origin := records.origin(each))})
    sizes = sorted({
        ", ".join(f"{name}={size}" for name, size in sorted(each.sizes.items()))
        for each in all_ if each.sizes
    })
    gained = f"{gain:.2f}x the default" + (f" at {' and '.join(sizes)}" if sizes else "")
    threads = sorted({each.threads for each in all_})
    made = (
        f"{first.source} on {', '.join(sorted({each.core for each in all_}))} with "
        f"{' or '.join(map(str, threads))} thread{'s' * (threads != [1])}"
    )
    time = [f"{median(each.median_us or 0.0 for each in all_):.4g} us"] if len(its) == 1 else []
    return ", ".join([*time, gained, made]) + (f" ({', '.join(files)})" if files else "")
