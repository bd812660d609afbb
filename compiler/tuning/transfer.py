"""Where a search starts: at what was fast for the nearest workloads on this core and on its kin.

Where too little is known of any, near the default: those who wrote a template chose it well.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.tuning.features import point_numbers
from pocketformer.compiler.tuning.points import Point, points_of, workload_key
from pocketformer.compiler.tuning.record import Record
from pocketformer.compiler.tuning.records import core_of
from pocketformer.schedules.cpu.trace import Trace
from pocketformer.targets.kin import kin

if TYPE_CHECKING:
    from pocketformer.schedules.workloads import Function, Workload
    from pocketformer.targets import Target

KIN = 0.5         # how far a kin core is, in doublings of a size
EPILOGUE = 0.25   # a bias, an activation, a residual: little of the time
FARTHEST = 6.0
EACH = 3          # points from each workload, then the next nearest one's
FIRST = 7         # a batch; what comes next the cost model chooses, which learns from records too
CLOSE = 0.1       # of a space is near its default
GAIN = 1.01       # below, a record says only that the default is a good point


def transfer_points(
    workload: Workload,
    target: Target,
    records: Iterable[Record],
    *,
    core: str = "",
    seed: int = 0,
) -> list[Point]:
    """`start_points` of the space of `workload` on `target`.

    `core` is the device's, where it is not the one `target` is tuned for.
    """
    space = points_of(workload, target)
    return start_points(workload, space, records, core or core_of(target), seed)


def start_points(
    workload: Workload, space: Sequence[Point], records: Iterable[Record], core: str, seed: int
) -> list[Point]:
    """FIRST points: `nearest_points`, and where they are fewer, `neighbours` drawn by `seed`."""
    found = nearest_points(workload, space, records, core)
    close = [point for point in neighbours(space) if point not in found]
    random.Random(seed).shuffle(close)
    return found + close[:FIRST - len(found)]


def neighbours(space: Sequence[Point]) -> list[Point]:
    """The points most like the default, which is the first of `space` and not among them."""
    own, *rows = map(point_numbers, space)
    away = [sum(abs(a - b) for a, b in zip(own, row, strict=True)) for row in rows]
    order = sorted(range(len(rows)), key=away.__getitem__)
    return [space[1 + i] for i in order[:max(FIRST, round(CLOSE * len(space)))]]


def nearest_points(
    workload: Workload,
    space: Sequence[Point],
    records: Iterable[Record],
    core: str,
    count: int = FIRST,
) -> list[Point]:
    """At most `count` points of `space`, those of the nearest records first.

    Records count of this workload on this core or its kin, and of workloads of its kind with other
    sizes or epilogues, as long as their points gained. A point that is not of this space gives the
    nearest one that is. The first of `space`, its default, is not among them.
    """
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        away = _distance(record, workload, core)
        if away <= FARTHEST and record.gain >= GAIN and not record.emulated:
            sizes = str(sorted(record.sizes.items()))
            key = away, record.core, record.threads, workload_key(record.workload), sizes
            groups[key].append(record)
    numbers = [point_numbers(point) for point in space] if groups else []
    found: dict[Point, None] = {}
    for key in sorted(groups):
        wanted = len(found) + EACH
        for record in sorted(groups[key], key=_rank):
            nearest = _nearest(record.point, space, numbers)
            if nearest is not None and nearest != space[0]:
                found.setdefault(nearest)
            if len(found) == wanted:
                break
    return list(found)[:count]


def known_traces(workload: Function, records: Iterable[Record], core: str) -> list[Trace]:
    """The traces that gained for `workload`, those on this core before those on its kin, the best
    first."""
    alike = kin(core)
    found = [
        record for record in records
        if record.workload == workload and record.core in alike and not record.emulated
        and record.gain >= GAIN
    ]
    found.sort(key=lambda record: (record.core != core, *_rank(record)))
    traces = dict.fromkeys(record.point for record in found)
    return [point for point in traces if isinstance(point, Trace)]


def _distance(record: Record, workload: Workload, core: str) -> float:
    """How unlike a record's task is, in doublings of sizes; infinite where it says nothing."""
    if type(record.workload) is not type(workload) or record.core not in kin(core):
        return math.inf
    away = KIN if record.core != core else 0.0
    for each in fields(workload):
        ours, theirs = getattr(workload, each.name), getattr(record.workload, each.name)
        if ours != theirs:
            sized = all(type(size) is int and size > 0 for size in (ours, theirs))
            away += abs(math.log2(ours / theirs)) if sized else EPILOGUE
    return away


def _rank(record: Record) -> tuple[bool, float, str]:
    return not record.confirmed, -record.gain, str(record.point)


def _nearest(
    point: Point, space: Sequence[Point], numbers: Sequence[Sequence[float]]
) -> Point | None:
    """The point of `space` most like `point`, None where it is of another template."""
    if type(point) is not type(space[0]):
        return None
    if point in space:
        return point
    own = point_numbers(point)
    away = [sum(abs(a - b) for a, b in zip(own, row, strict=True)) for row in numbers]
    return space[away.index(min(away))]
