"""Walking over a row in vectors, and sums and maxima of one; what norm and softmax share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import reduce_add, reduce_max
from pocketformer.schedules.cpu.kernel import Expr, load, loop, registers, splat, store

Visit = Callable[[Expr, int, int], None]     # start, lanes, way


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

    def sum(self, term: Callable[[Expr, int], Expr]) -> Expr:
        """The sum of `term(start, lanes)`."""
        return self._fold(term, 0.0, lambda a, b: a + b, reduce_add)

    def max(self, term: Callable[[Expr, int], Expr]) -> Expr:
        """The greatest of `term(start, lanes)`."""
        return self._fold(term, float("-inf"), tirx.max, reduce_max)

    def _fold(
        self, term: Callable[[Expr, int], Expr], start: float,
        join: Callable[[Expr, Expr], Expr], across: Callable[[Expr], Expr],
    ) -> Expr:
        lanes = self.lanes
        vectors, rest = registers(self.unroll, lanes), registers(1)
        for way in range(self.unroll):
            store(vectors, splat(start, lanes), way, 0)
        store(rest, splat(start, 1), 0)

        def take(at: Expr, width: int, way: int) -> None:
            value = term(at, width)
            if width == 1:
                store(rest, join(rest[0], value), 0)
            else:
                store(vectors, join(load(vectors, way, 0, lanes=lanes), value), way, 0)

        self.sweep(take)
        joined = reduce(join, [load(vectors, way, 0, lanes=lanes) for way in range(self.unroll)])
        return T.bind(join(across(joined), rest[0]))
