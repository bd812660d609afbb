"""Layer and RMS normalisation of rows, with the residual added on the way.

A row stays in the first cache for its three readings: sum, squared distance from the mean, result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of, reduce_add
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    load,
    loop,
    parallel_loop,
    prim_func,
    registers,
    splat,
    store,
)
from pocketformer.schedules.workloads import Norm

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16     # numbers: some 5 us of one core


@dataclass(frozen=True)
class RowNorm:
    """A row at a time; `unroll` vectors are read in one step, each with its own partial sum."""

    isa: str
    unroll: int = 4

    @property
    def name(self) -> str:
        return f"f32_norm_1x{self.unroll * isa_named(self.isa).lanes}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Norm)

    @classmethod
    def space(cls, target: Target, workload: Norm) -> Iterator[RowNorm]:
        for unroll in (1, 2, 4, 8):
            yield cls(isa_of(target).name, unroll)

    @classmethod
    def default(cls, target: Target, workload: Norm) -> RowNorm:
        return cls(isa_of(target).name)

    def kernel(self, workload: Norm, target: Target) -> Kernel:
        return Kernel(self.name, self.build(workload, target))

    def build(self, workload: Norm, target: Target) -> tirx.PrimFunc:
        """x[rows, size], residual?, weight[size], bias[size]? -> y[rows, size], sum?"""
        size = workload.size
        with prim_func(self.name) as function:
            rows = function.size("rows", workload.rows)
            x = function.argument("x", (rows, size))
            residual = function.argument("residual", (rows, size)) if workload.residual else None
            weight = function.argument("weight", (size,))
            bias = function.argument("bias", (size,)) if workload.bias else None
            y = function.argument("y", (rows, size))
            total = function.argument("total", (rows, size)) if workload.keep_sum else None
            share = workload.rows is None or workload.rows * size >= WORTH_SHARING
            with parallel_loop(rows, share) as row:
                # The sum is kept in an output, which is at hand, rather than made thrice.
                kept = x if residual is None else total if total is not None else y
                self._row(workload, row, x, residual, weight, bias, y, kept)
        return function.func

    def _row(
        self, workload: Norm, row: Expr, x: Buffer, residual: Buffer | None, weight: Buffer,
        bias: Buffer | None, y: Buffer, kept: Buffer,
    ) -> None:
        size = workload.size

        def read(at: Expr, lanes: int) -> Expr:
            value = load(x, row, at, lanes=lanes)
            if residual is None:
                return value
            store(kept, value + load(residual, row, at, lanes=lanes), row, at)
            return load(kept, row, at, lanes=lanes)

        mean: Expr = None
        if workload.kind == "layer":
            mean = T.bind(self._sum(size, read) * T.float32(1.0 / size))

        def squared(at: Expr, lanes: int) -> Expr:
            if mean is None:
                distance = T.bind(read(at, lanes))
            else:
                distance = T.bind(load(kept, row, at, lanes=lanes) - splat(mean, lanes))
            return distance * distance

        variance = self._sum(size, squared) * T.float32(1.0 / size)
        scale = T.bind(T.float32(1.0) / T.sqrt(variance + T.float32(workload.eps)))

        def write(at: Expr, lanes: int, _way: int) -> None:
            value = load(kept, row, at, lanes=lanes)
            if mean is not None:
                value = value - splat(mean, lanes)
            value = value * splat(scale, lanes) * load(weight, at, lanes=lanes)
            if bias is not None:
                value = value + load(bias, at, lanes=lanes)
            store(y, value, row, at)

        self._sweep(size, write)

    def _sum(self, size: int, term: Callable[[Expr, int], Expr]) -> Expr:
        """The sum of `term(at, lanes)` over a row."""
        lanes = isa_named(self.isa).lanes
        sums, rest = registers(self.unroll, lanes), registers(1)
        for way in range(self.unroll):
            store(sums, splat(0.0, lanes), way, 0)
        store(rest, T.float32(0.0), 0)

        def add(at: Expr, width: int, way: int) -> None:
            value = term(at, width)
            if width == 1:
                store(rest, rest[0] + value, 0)
            else:
                store(sums, load(sums, way, 0, lanes=lanes) + value, way, 0)

        self._sweep(size, add)
        parts = [load(sums, way, 0, lanes=lanes) for way in range(self.unroll)]
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        total = reduce_add(parts[0])
        return total + rest[0] if size % lanes else total

    def _sweep(self, size: int, visit: Callable[[Expr, int, int], None]) -> None:
        """`visit(at, lanes, way)` for every vector of a row and every number left over."""
        lanes = isa_named(self.isa).lanes
        step = self.unroll * lanes
        with loop(size // step) as block:
            for way in range(self.unroll):
                visit(block * step + way * lanes, lanes, way)
        done = size // step * step
        for way in range((size - done) // lanes):
            visit(done + way * lanes, lanes, way)
        for at in range(size // lanes * lanes, size):
            visit(at, 1, 0)
