"""What records say about one workload on one target: how much faster which points are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeAlias

from pocketformer.compiler.tuning.points import Point, encode_point
from pocketformer.compiler.tuning.records import Record, Records
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


def order_of(point: Point) -> str:
    """A text to sort points by, the same in every run."""
    return json.dumps(encode_point(point), sort_keys=True)


@dataclass(frozen=True)
class Candidate:
    """A point that takes `ratio` of the default point's time, on average over all situations.

    `told` says where that is known from.
    """

    point: Point
    ratio: float
    told: str


@dataclass(frozen=True)
class Known:
    """All that records say: for each layout of weights the fastest point.

    `default_us` is what the default point takes, None where there is no record.
    """

    fastest: Mapping[Layout, Candidate]
    default_us: float | None = None


def known_of(
    workload: Workload, default: Point, target: Target, cores: Iterable[str], records: Records
) -> Known:
    """What `records` of the processors `cores` say of `workload` on `target`."""
    found: dict[Situation, list[Record]] = defaultdict(list)
    for core in cores:
        fitting = records.fitting(workload, target, core=core)
        for record in _best_kind(fitting, target.threads):
            found[core, tuple(sorted(record.sizes.items()))].append(record)
    if not found:
        return Known({})
    confirmed = [each for each, group in found.items() if any(one.confirmed for one in group)]
    by_layout: dict[Layout, list[Candidate]] = defaultdict(list)
    for point, its in _by_point(found).items():
        candidate = _candidate(point, its, found.keys(), confirmed, records)
        if point != default and candidate:
            by_layout[layout_of(point)].append(candidate)
    default_us = fmean(
        median(record.default_us or 0.0 for record in group) for group in found.values()
    )
    fastest = {
        layout: min(group, key=lambda each: (each.ratio, order_of(each.point)))
        for layout, group in by_layout.items()
    }
    return Known(fastest, default_us)


def _best_kind(fitting: Iterable[Record], threads: int) -> list[Record]:
    """Measured ones before estimates, before others those with as many threads; of the layouts
    whose points were timed again at the end of a search, only these times."""
    kinds: dict[tuple[bool, bool], list[Record]] = defaultdict(list)
    for record in fitting:
        kinds[record.source == "measured", record.threads == threads].append(record)
    best = kinds[max(kinds)] if kinds else []
    confirmed = {layout_of(record.point) for record in best if record.confirmed}
    return [
        record for record in best
        if record.confirmed or layout_of(record.point) not in confirmed
    ]


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
) -> Candidate | None:
    """`point` as a candidate; where it was not tried, it counts as fast as the default.

    `confirmed` are the situations in which the best points were timed again. None if it is slower
    than the default in a situation, or if its gain is estimated and little.
    """
    ratios = {
        situation: _ratio(group, situation in confirmed) for situation, group in its.items()
    }
    if len(ratios) > 1 and max(ratios.values()) > NOISE:
        return None
    mean = fmean(ratios.get(situation, 1.0) for situation in situations)
    estimated = any(each.source != "measured" for group in its.values() for each in group)
    if estimated and mean * PROMISED > 1.0:
        return None
    return Candidate(point, mean, _told(its, 1 / mean, records))


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
