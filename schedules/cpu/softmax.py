"""Softmax of rows: greatest number, exponentials and sum, division; a row stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import math
from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    ceil_div,
    load,
    parallel_loop,
    prim_func,
    splat,
    store,
    when,
)
from pocketformer.schedules.cpu.rows import Row
from pocketformer.schedules.workloads import Softmax

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 14     # numbers: some 4 us of one core


@dataclass(frozen=True)
class RowSoftmax:
    """`together` rows at a time, in steps of `unroll` vectors."""

    isa: str
    unroll: int = 8
    together: int = 2

    @property
    def name(self) -> str:
        return f"f32_softmax_{self.together}x{self.unroll * isa_named(self.isa).lanes}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Softmax)

    @classmethod
    def space(cls, target: Target, workload: Softmax) -> Iterator[RowSoftmax]:
        default = cls.default(target, workload)
        points = [replace(default, unroll=unroll, together=together)
                  for together in (1, 2, 4) if together <= (workload.rows or together)
                  for unroll in (1, 2, 4, 8)]
        yield from dict.fromkeys((default, *points))

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
            share = not known or rows * size >= WORTH_SHARING
            with parallel_loop(ceil_div(rows, self.together), share) as group:
                first = group * self.together
                _softmax(row, x, y, rows, [first + i for i in range(self.together)])
        return function.func


def _softmax(row: Row, x: Buffer, y: Buffer, rows: Expr, wanted: list[Expr]) -> None:
    """Softmax of these rows, step by step, so that the end of a step of one hides in the next's.

    A row past the end stands for the last one, whose exponentials it writes once more.
    """
    numbers = [tirx.min(r, rows - 1) for r in wanted]

    def read(r: Expr, at: Expr, lanes: int) -> Expr:
        return load(x, r, at, lanes=lanes)

    def exponential(r: Expr, top: Expr, at: Expr, lanes: int) -> Expr:
        value = T.bind(math.exp_nonpositive(read(r, at, lanes) - splat(top, lanes)))
        store(y, value, r, at)
        return value

    tops = [row.max(partial(read, r)) for r in numbers]
    sums = [row.sum(partial(exponential, r, top)) for r, top in zip(numbers, tops, strict=True)]
    scales = [T.bind(T.float32(1.0) / total) for total in sums]

    def scaled(r: Expr, scale: Expr, at: Expr, lanes: int, _way: int) -> None:
        store(y, load(y, r, at, lanes=lanes) * splat(scale, lanes), r, at)

    for i, (r, scale) in enumerate(zip(wanted, scales, strict=True)):
        with when(True if i == 0 else r < rows):
            row.sweep(partial(scaled, r, scale))
