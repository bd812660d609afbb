"""Records -> a point for each workload of a model, such that no weight is there twice for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeAlias

from pocketformer.compiler.tuning.candidates import (
    Candidate,
    Known,
    Layout,
    known_of,
    layout_of,
)
from pocketformer.compiler.tuning.points import Point, default_of, points_of, workload_key
from pocketformer.compiler.tuning.records import Records, core_of
from pocketformer.compiler.tuning.survey import Use
from pocketformer.schedules.cpu.trace import Trace
from pocketformer.schedules.workloads import Function, Workload
from pocketformer.targets import Target

# What must be gained: less is noise, and no reason for other code or another layout of weights.
WORTHWHILE = 1.02
UNKNOWN = 1.05      # the time of a point without a record, as a multiple of the default point's

Node: TypeAlias = tuple[str, Workload]      # at a level


@dataclass(frozen=True)
class Choice:
    """A point other than the default one, and in a few words why."""

    point: Point
    told: str


@dataclass(frozen=True)
class Choices:
    """What was chosen at each level; what is not there keeps its default point."""

    levels: Mapping[str, Mapping[Workload, Choice]] = field(default_factory=dict)

    def at(self, level: str) -> dict[Workload, Point]:
        """The points for PickKernels."""
        return {work: choice.point for work, choice in self.levels.get(level, {}).items()}

    def traces(self, level: str) -> dict[str, tuple[str, str]]:
        """The recorded schedules for ScheduleRest."""
        return {
            work.key: (choice.point.steps, choice.told)
            for work, choice in self.levels.get(level, {}).items()
            if isinstance(work, Function) and isinstance(choice.point, Trace)
        }

    def told(self, level: str, workload: str) -> str:
        """Why the kernel of `workload`, as text, is what it is; "" for a default point."""
        for each, choice in self.levels.get(level, {}).items():
            if str(each) == workload:
                return choice.told
        return ""


def choose(uses: Sequence[Use], variants: Sequence[Target], records: Records) -> Choices:
    """The points for the workloads of `uses` on each of a target's `variants`.

    A point is taken where records of the target's processor say that it gains 2 % or more; of a
    target for many processors, where records of any say so and those of no other contradict. What
    reads the same weight in the same layout by default, in whatever entry and level, does so after
    the choice: the layout is the one with which all its readers take least time together.
    """
    if not len(records):
        return Choices()
    calls = Counter(use.workload for use in uses)
    # Which functions a model has is known only after all points are chosen; they share no weights.
    functions = (each.workload for each in records if isinstance(each.workload, Function))
    calls |= Counter(dict.fromkeys(functions, 1))
    nodes = dict(_nodes(calls, variants, records))
    chosen: dict[str, dict[Workload, Choice]] = {}
    for group in _sharing(uses, nodes):
        for (level, workload), choice in _chosen({node: nodes[node] for node in group}).items():
            chosen.setdefault(level, {})[workload] = choice
    return Choices(chosen)


@dataclass(frozen=True)
class _Reader:
    """A workload at a level: its default point, what records say, how often it is called."""

    workload: Workload
    target: Target
    default: Point
    known: Known
    calls: int

    def with_layout(self, layout: Layout) -> Candidate | None:
        """The fastest point with this layout that is known, or else the first that may work."""
        if layout == layout_of(self.default):
            best = self.known.fastest.get(layout)
            if best and best.ratio * WORTHWHILE <= 1.0:
                return best
            return Candidate(self.default, 1.0, "")
        if layout in self.known.fastest:
            return self.known.fastest[layout]
        # A space begins with the best guesses.
        first = next((
            point for point in points_of(self.workload, self.target)
            if layout_of(point) == layout and point not in self.known.failed
        ), None)
        told = "shares its weight with a kernel that has a record"
        return None if first is None else Candidate(first, UNKNOWN, told)


def _nodes(
    calls: Mapping[Workload, int], variants: Sequence[Target], records: Records
) -> Iterator[tuple[Node, _Reader]]:
    cores: dict[str, set[str]] = {}
    for record in records:
        cores.setdefault(workload_key(record.workload), set()).add(record.core)
    for target in variants:
        for workload, count in calls.items():
            try:
                default = default_of(workload, target)
            except LookupError:     # left to other operators
                continue
            recorded = sorted(cores.get(workload_key(workload), ()))
            if not target.for_many:
                recorded = [core for core in recorded if core == core_of(target)]
            known = known_of(workload, default, target, recorded, records)
            yield (target.level, workload), _Reader(workload, target, default, known, count)


def _sharing(uses: Iterable[Use], nodes: Mapping[Node, _Reader]) -> list[list[Node]]:
    """All nodes, those together that by default read the same packed weights.

    In the order of `nodes`: what is chosen must not depend on how texts are hashed.
    """
    readers: dict[tuple[str, Layout], set[Node]] = {}
    groups = [frozenset({node}) for node in nodes]
    levels = sorted({level for level, _ in nodes})
    for use in uses:
        for level in levels if use.weight is not None else ():
            if reader := nodes.get(node := (level, use.workload)):
                key = str(use.weight), layout_of(reader.default)
                readers.setdefault(key, set()).add(node)
    for together in readers.values():
        touched = [group for group in groups if group & together]
        groups = [group for group in groups if not group & together]
        groups.append(frozenset().union(*touched))
    return [[node for node in nodes if node in group] for group in groups]


def _chosen(group: Mapping[Node, _Reader]) -> dict[Node, Choice]:
    """For readers of the same weights, the points of the layout that costs least."""
    (default,) = {layout_of(reader.default) for reader in group.values()}
    layouts = {layout for reader in group.values() for layout in reader.known.fastest} - {default}
    times = [reader.known.default_us for reader in group.values()]
    usual = fmean([time for time in times if time is not None] or [1.0])
    best = {node: reader.with_layout(default) for node, reader in group.items()}
    least = _cost(group, best, usual) / WORTHWHILE
    for layout in sorted(layouts, key=repr):
        found = {node: reader.with_layout(layout) for node, reader in group.items()}
        if None not in found.values() and (cost := _cost(group, found, usual)) < least:
            best, least = found, cost
    return {
        node: Choice(candidate.point, candidate.told)
        for node, candidate in best.items()
        if candidate and candidate.point != group[node].default
    }


def _cost(
    group: Mapping[Node, _Reader], found: Mapping[Node, Candidate | None], usual: float
) -> float:
    return sum(
        reader.calls * (reader.known.default_us or usual) * candidate.ratio
        for node, reader in group.items() if (candidate := found[node])
    )
