"""Layer and RMS normalisation of rows, with the residual added on the way.

A row stays in the first cache for its three readings: sum, squared distance from the mean, result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    load,
    parallel_loop,
    prim_func,
    splat,
    store,
)
from pocketformer.schedules.cpu.rows import Row
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
        walk = Row(size, isa_named(self.isa).lanes, self.unroll)

        def read(at: Expr, lanes: int) -> Expr:
            value = load(x, row, at, lanes=lanes)
            if residual is None:
                return value
            store(kept, value + load(residual, row, at, lanes=lanes), row, at)
            return load(kept, row, at, lanes=lanes)

        mean: Expr = None
        if workload.kind == "layer":
            mean = T.bind(walk.sum(read) * T.float32(1.0 / size))

        def squared(at: Expr, lanes: int) -> Expr:
            if mean is None:
                distance = T.bind(read(at, lanes))
            else:
                distance = T.bind(load(kept, row, at, lanes=lanes) - splat(mean, lanes))
            return distance * distance

        variance = walk.sum(squared) * T.float32(1.0 / size)
        scale = T.bind(T.float32(1.0) / T.sqrt(variance + T.float32(workload.eps)))

        def write(at: Expr, lanes: int, _way: int) -> None:
            value = load(kept, row, at, lanes=lanes)
            if mean is not None:
                value = value - splat(mean, lanes)
            value = value * splat(scale, lanes) * load(weight, at, lanes=lanes)
            if bias is not None:
                value = value + load(bias, at, lanes=lanes)
            store(y, value, row, at)

        walk.sweep(write)
