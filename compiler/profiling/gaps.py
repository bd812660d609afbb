"""What passes between kernels, and how much of that is the instrument."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

from pocketformer.compiler.profiling.attribution import MACHINE, Timed, kernels_of


def time_between(runs: Sequence[Timed], fastest_ms: float) -> tuple[float, float]:
    """Milliseconds between kernels without the instrument, and those that it adds to a run.

    `fastest_ms` is one estimate: the fastest run without the instrument, less the fastest call of
    each kernel. The other is the time seen between kernels, less what the instrument takes for so
    many calls. A busy machine makes the first too long, calls with many arguments the second: the
    shorter one counts.
    """
    seen = sum(map(statistics.median, zip(*map(_gaps, runs), strict=True))) / 1e6
    taken = len(runs[0]) * _least_us(runs, to_next=True) / 1e3
    between = min(fastest_ms, max(0.0, seen - taken))
    return between, max(0.0, seen - between)


def instrument_us(runs: Sequence[Timed]) -> float:
    """What the instrument adds to a kernel's time: all that the shortest call seems to take."""
    return _least_us(runs, to_next=False)


def _gaps(run: Timed) -> list[int]:
    """Nanoseconds before, between and after the kernels of a run."""
    if not run:
        return []
    edges = [run[0][1]]
    for _, start, end in kernels_of(run):
        edges += [start, end]
    edges.append(max(end for _, _, end in run))
    return [end - start for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _least_us(runs: Sequence[Timed], to_next: bool) -> float:
    """The least that calls of one of the machine's functions take, or take `to_next` call."""
    taken: dict[str, list[int]] = {}
    for run in runs:
        for (name, start, end), (_, following, _) in pairwise(run):
            if name.startswith(MACHINE):
                taken.setdefault(name, []).append((following if to_next else end) - start)
    return min((statistics.median(each) for each in taken.values()), default=0.0) / 1e3
