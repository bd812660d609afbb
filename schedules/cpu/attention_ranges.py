"""What attention rounds to int8 by itself: symmetric, by ranges that it finds as it packs.

A magnitude is taken as its bits: as integers they are in the same order, with infinity and NaN
above all numbers, which a maximum of floats could forget.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_products import Products
from pocketformer.schedules.cpu.attention_words import vectors
from pocketformer.schedules.cpu.intrinsics import reduce_max_integers
from pocketformer.schedules.cpu.kernel import (
    Expr,
    lanes_of,
    load,
    loop,
    registers,
    splat,
    store,
    typed,
    workspace,
)
from pocketformer.schedules.cpu.math import INFINITY, MAGNITUDE, ROUND
from pocketformer.schedules.cpu.short_stores import TINY

STEPS = 127                 # of the largest magnitude
_MOST_VECTORS = 8           # of maxima that stay in registers

Rows = Callable[[Expr, Expr, int], Expr]    # so many float32 numbers of a row from a place on
Counted = Callable[[Expr], Expr]            # the bits of a row's numbers that count: none or all


class Range:
    """Of the keys, or the values, of a head: `scale` is what one step of them stands for."""

    def __init__(self, lanes: int) -> None:
        self._lanes, self._scale = lanes, registers(1)

    @staticmethod
    def of(inputs: Inputs, dot: Products) -> Range | None:
        """None where products are of no integers, or these come as such."""
        return Range(dot.lanes) if finds_ranges(inputs, dot) else None

    @property
    def scale(self) -> Expr:
        return self._scale[0]

    def measure(
        self, count: Expr, size: int, rows: Rows, counted: Counted
    ) -> Callable[[Expr], Expr]:
        """Find it from `count` rows of `size` numbers; returns what makes integers of a vector.

        Those of a row that does not count are any.
        """
        scale = step_of(_largest(count, size, self._lanes, rows, counted))
        store(self._scale, scale, 0)
        steps = T.bind(T.float32(1.0) / scale)
        return lambda value: integers(value, steps)


class QueryRanges:
    """Of a tile's queries: `unit` is what makes scores, in powers of two, of their products."""

    def __init__(self, queries: int, lanes: int) -> None:
        self._queries, self._lanes = queries, lanes
        self.unit, self._steps = workspace(queries), workspace(queries)

    def measure(self, size: int, rows: Rows, unit: Expr) -> Callable[[Expr, Expr], Expr]:
        """Find them; `unit` is what makes scores of queries as they are and keys in steps.

        Returns what makes integers of a vector of a query.
        """
        with loop(self._queries) as r:
            scale = step_of(_largest(
                1, size, self._lanes, lambda _, d, width: rows(r, d, width),
                lambda _: T.int32(MAGNITUDE)))
            store(self.unit, scale * unit, r)
            store(self._steps, T.float32(1.0) / scale, r)
        return lambda r, value: integers(value, self._steps[r])


def finds_ranges(inputs: Inputs, dot: Products) -> bool:
    return dot.integers and inputs.scales is None


def step_of(magnitude: Expr) -> Expr:
    """The scale of numbers up to the one with the bits `magnitude`; NaN if that is not finite."""
    step = T.bind(tirx.reinterpret("float32", magnitude) / T.float32(STEPS))
    scale = tirx.Select(step <= T.float32(TINY), T.float32(1.0), step)
    finite = magnitude < T.int32(INFINITY)
    return T.bind(tirx.Select(finite, scale, T.float32(float("nan"))))


def integers(value: Expr, steps: Expr) -> Expr:
    """A vector of float32 in steps as int8: what is added leaves them in the low bytes."""
    lanes = lanes_of(value)
    held = value * splat(steps, lanes) + splat(ROUND, lanes)
    return tirx.reinterpret(typed("int32", lanes), held).astype(typed("int8", lanes))


def _largest(count: Expr, size: int, lanes: int, rows: Rows, counted: Counted) -> Expr:
    """The bits of the largest magnitude of `count` rows of `size` numbers."""
    most = registers(1, dtype="int32")
    store(most, T.int32(0), 0)
    parts = vectors(size, lanes)
    for first in range(0, len(parts), _MOST_VECTORS):
        group = parts[first : first + _MOST_VECTORS]
        found = [registers(width, dtype="int32") for _, width in group]
        for (_, width), into in zip(group, found, strict=True):
            store(into, splat(T.int32(0), width), 0)
        with loop(count) as row:
            kept = T.bind(counted(row))
            for (at, width), into in zip(group, found, strict=True):
                bits = tirx.reinterpret(typed("int32", width), rows(row, at, width))
                bits = bits & splat(kept, width)
                store(into, tirx.max(load(into, 0, lanes=width), bits), 0)
        for (_, width), into in zip(group, found, strict=True):
            store(most, tirx.max(most[0], _across(load(into, 0, lanes=width))), 0)
    return T.bind(most[0])


def _across(bits: Expr) -> Expr:
    """The greatest lane."""
    if lanes_of(bits) == 1:
        return bits
    return reduce_max_integers(bits)
