"""Walking over a row in vectors, and sums and maxima of one; what norm and softmax share."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import reduce_add, reduce_max, reduce_min
from pocketformer.schedules.cpu.kernel import (
    Expr,
    lanes_of,
    load,
    loop,
    registers,
    splat,
    store,
)

Visit = Callable[[Expr, int, int], None]     # start, lanes, way
Term = Callable[[Expr, int], Expr]           # start, lanes


@dataclass(frozen=True)
class Row:
    """`size` numbers, a known or a symbolic count, in steps of `unroll` vectors."""

    size: Any
    lanes: int
    unroll: int

    def sweep(self, visit: Visit) -> None:
        """`visit` every vector, those of a step with a `way` each, and every number left over."""
        size, lanes, step = self.size, self.lanes, self.unroll * self.lanes
        with loop(size // step) as block:
            for way in range(self.unroll):
                visit(block * step + way * lanes, lanes, way)
        done = size // step * step
        with loop(size % step // lanes) as vector:
            visit(done + vector * lanes, lanes, 0)
        with loop(size % lanes) as rest:
            visit(size // lanes * lanes + rest, 1, 0)

    def sum(self, term: Term) -> Expr:
        """The sum of `term(start, lanes)`."""
        return self._fold(term, _Fold(self, 0.0, operator.add, reduce_add))[0]

    def max(self, term: Term) -> Expr:
        """The greatest of `term(start, lanes)`."""
        return self._fold(term, _Fold(self, float("-inf"), tirx.max, reduce_max))[0]

    def extremes(self, term: Term) -> tuple[Expr, Expr]:
        """The least and the greatest of `term(start, lanes)` and 0; NaN where one is not finite.

        A minimum or maximum of the machine forgets a NaN, so sums of zeros remember it.
        """
        low, high, zero = self._fold(
            term, _Fold(self, 0.0, tirx.min, reduce_min), _Fold(self, 0.0, tirx.max, reduce_max),
            _Fold(self, 0.0, plus_zero_times, reduce_add))
        return T.bind(low + zero), T.bind(high + zero)

    def _fold(self, term: Term, *folds: _Fold) -> list[Expr]:
        def take(at: Expr, width: int, way: int) -> None:
            value = term(at, width)
            if len(folds) > 1:
                value = T.bind(value)
            for fold in folds:
                fold.take(value, width, way)

        self.sweep(take)
        return [fold.result() for fold in folds]


def plus_zero_times(total: Expr, value: Expr) -> Expr:
    """total + 0 * value, which is NaN where that is not finite; TVM would simplify it.

    One instruction, two where none does both.
    """
    dtype, lanes = str(value.ty), lanes_of(value)
    return tirx.call_llvm_pure_intrin(
        dtype, "llvm.fmuladd", splat(T.float32(0.0), lanes), value, total)


class _Fold:
    """What a row is folded into: vectors, one for each way, and a number for those left over."""

    def __init__(
        self, walk: Row, start: float, join: Callable[[Expr, Expr], Expr],
        across: Callable[[Expr], Expr],
    ) -> None:
        self._walk, self._join, self._across = walk, join, across
        self._vectors, self._rest = registers(walk.unroll, walk.lanes), registers(1)
        for way in range(walk.unroll):
            store(self._vectors, splat(start, walk.lanes), way, 0)
        store(self._rest, splat(start, 1), 0)

    def take(self, value: Expr, width: int, way: int) -> None:
        if width == 1:
            store(self._rest, self._join(self._rest[0], value), 0)
        else:
            vector = load(self._vectors, way, 0, lanes=width)
            store(self._vectors, self._join(vector, value), way, 0)

    def result(self) -> Expr:
        lanes, ways = self._walk.lanes, range(self._walk.unroll)
        joined = reduce(self._join, [load(self._vectors, way, 0, lanes=lanes) for way in ways])
        return T.bind(self._join(self._across(joined), self._rest[0]))
