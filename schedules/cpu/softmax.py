"""Softmax of rows: greatest number, exponentials and sum, division; a row stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import math
from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Expr,
    Kernel,
    load,
    parallel_loop,
    prim_func,
    splat,
    store,
)
from pocketformer.schedules.cpu.rows import Row
from pocketformer.schedules.workloads import Softmax

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 14     # numbers: some 4 us of one core


@dataclass(frozen=True)
class RowSoftmax:
    """A row at a time, in steps of `unroll` vectors."""

    isa: str
    unroll: int = 4

    @property
    def name(self) -> str:
        return f"f32_softmax_1x{self.unroll * isa_named(self.isa).lanes}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Softmax)

    @classmethod
    def space(cls, target: Target, workload: Softmax) -> Iterator[RowSoftmax]:
        for unroll in (1, 2, 4, 8):
            yield cls(isa_of(target).name, unroll)

    @classmethod
    def default(cls, target: Target, workload: Softmax) -> RowSoftmax:
        return cls(isa_of(target).name)

    def kernel(self, workload: Softmax, target: Target) -> Kernel:
        return Kernel(self.name, self.build(workload, target))

    def build(self, workload: Softmax, target: Target) -> tirx.PrimFunc:
        """x[rows, size] -> y[rows, size]."""
        with prim_func(self.name) as function:
            rows = function.size("rows", workload.rows)
            size = function.size("size", workload.size)
            x = function.argument("x", (rows, size))
            y = function.argument("y", (rows, size))
            known = workload.rows is not None and workload.size is not None
            row = Row(size, isa_named(self.isa).lanes, self.unroll)
            with parallel_loop(rows, not known or rows * size >= WORTH_SHARING) as r:
                top = row.max(lambda at, lanes: load(x, r, at, lanes=lanes))

                def exponential(at: Expr, lanes: int) -> Expr:
                    value = T.bind(math.exp(load(x, r, at, lanes=lanes) - splat(top, lanes)))
                    store(y, value, r, at)
                    return value

                scale = T.bind(T.float32(1.0) / row.sum(exponential))
                row.sweep(lambda at, lanes, way: store(
                    y, load(y, r, at, lanes=lanes) * splat(scale, lanes), r, at))
        return function.func
