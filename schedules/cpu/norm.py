"""Layer and RMS normalisation of rows, with the residual added on the way.

A row stays in the first cache for its three readings: sum, squared distance from the mean, result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    ceil_div,
    load,
    loop,
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
class _Arrays:
    """`kept` holds what is normalised: x, or the sum with the residual in one of the outputs."""

    x: Buffer
    residual: Buffer | None
    weight: Buffer
    bias: Buffer | None
    y: Buffer
    kept: Buffer


@dataclass(frozen=True)
class RowNorm:
    """`together` rows step by step, so that the end of a step of one hides in the next one's;
    `unroll` vectors are read at once, each with its own partial sum.
    """

    isa: str
    unroll: int = 4
    together: int = 1

    @property
    def name(self) -> str:
        return f"f32_norm_{self.together}x{self.unroll * isa_named(self.isa).lanes}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Norm)

    @classmethod
    def space(cls, target: Target, workload: Norm) -> Iterator[RowNorm]:
        default = cls.default(target, workload)
        points = [replace(default, unroll=unroll, together=together)
                  for together in (1, 2, 4) if together <= (workload.rows or together)
                  for unroll in (1, 2, 4, 8)]
        yield from dict.fromkeys((default, *points))

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
            # The sum is kept in an output, which is at hand, rather than made thrice.
            kept = x if residual is None else total if total is not None else y
            arrays = _Arrays(x, residual, weight, bias, y, kept)
            self._walk(rows, share, partial(self._rows, workload, arrays))
        return function.func

    def _walk(self, rows: Expr, share: bool, write: Callable[[list[Expr]], None]) -> None:
        """Each row once: a second time, its residual could be gone, for the result may take its
        place.
        """
        together = self.together
        even = together == 1 or (isinstance(rows, int) and rows % together == 0)
        with parallel_loop(ceil_div(rows, together), share) as group:
            first = group * together
            wanted = [first + i for i in range(together)]
            if even:
                write(wanted)
                return
            with T.If(first + together <= rows):
                with T.Then():
                    write(wanted)
                with T.Else(), loop(rows - first) as i:
                    write([first + i])

    def _rows(self, workload: Norm, arrays: _Arrays, wanted: list[Expr]) -> None:
        size, kept = workload.size, arrays.kept
        walk = Row(size, isa_named(self.isa).lanes, self.unroll)

        def read(row: Expr, at: Expr, lanes: int) -> Expr:
            value = load(arrays.x, row, at, lanes=lanes)
            if arrays.residual is None:
                return value
            store(kept, value + load(arrays.residual, row, at, lanes=lanes), row, at)
            return load(kept, row, at, lanes=lanes)

        def mean_of(row: Expr) -> Expr:
            return T.bind(walk.sum(partial(read, row)) * T.float32(1.0 / size))

        means = [mean_of(row) if workload.kind == "layer" else None for row in wanted]

        def squared(row: Expr, mean: Expr, at: Expr, lanes: int) -> Expr:
            if mean is None:
                distance = T.bind(read(row, at, lanes))
            else:
                distance = T.bind(load(kept, row, at, lanes=lanes) - splat(mean, lanes))
            return distance * distance

        def scale_of(row: Expr, mean: Expr) -> Expr:
            variance = walk.sum(partial(squared, row, mean)) * T.float32(1.0 / size)
            return T.bind(T.float32(1.0) / T.sqrt(variance + T.float32(workload.eps)))

        scales = [scale_of(row, mean) for row, mean in zip(wanted, means, strict=True)]

        def write(row: Expr, mean: Expr, scale: Expr, at: Expr, lanes: int, _way: int) -> None:
            value = load(kept, row, at, lanes=lanes)
            if mean is not None:
                value = value - splat(mean, lanes)
            value = value * splat(scale, lanes) * load(arrays.weight, at, lanes=lanes)
            if arrays.bias is not None:
                value = value + load(arrays.bias, at, lanes=lanes)
            store(arrays.y, value, row, at)

        for row, mean, scale in zip(wanted, means, scales, strict=True):
            walk.sweep(partial(write, row, mean, scale))
