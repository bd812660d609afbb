"""Layer and RMS normalisation of rows, with the residual added on the way.

A row stays in the first cache for its three readings: sum, squared distance from the mean, result;
and a fourth where it is quantised by its own range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Builder,
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
from pocketformer.schedules.cpu.short_rows import Short, short_inputs, short_outputs
from pocketformer.schedules.workloads import Norm

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16     # numbers: some 5 us of one core
SHORT_LANES = 16            # so many bytes are a vector on every machine


@dataclass(frozen=True)
class _Arrays:
    """`y` is None where the result is not kept, `total` where the sum with the residual is not."""

    x: Buffer
    residual: Buffer | None
    weight: Buffer
    bias: Buffer | None
    short: Short | None
    y: Buffer | None
    total: Buffer | None

    @property
    def sums(self) -> Buffer | None:
        """Where sums with the residual are at hand, rather than made thrice."""
        return self.total if self.total is not None else self.y

    def first(self, row: Expr, at: Expr, lanes: int) -> Expr:
        """What is normalised, read for the first time."""
        value = load(self.x, row, at, lanes=lanes)
        if self.residual is None:
            return value
        value = value + load(self.residual, row, at, lanes=lanes)
        if self.sums is None:
            return value
        store(self.sums, value, row, at)
        return load(self.sums, row, at, lanes=lanes)

    def again(self, row: Expr, at: Expr, lanes: int) -> Expr:
        if self.residual is None or self.sums is None:
            return self.first(row, at, lanes)
        return load(self.sums, row, at, lanes=lanes)


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
        """x[rows, size], residual?, weight[size], bias[size]?, factor?, zero? -> see Norm."""
        size = workload.size
        with prim_func(self.name) as function:
            rows = function.size("rows", workload.rows)
            shape = (rows, size)
            arrays = _Arrays(
                x=function.argument("x", shape),
                residual=function.argument("residual", shape) if workload.residual else None,
                weight=function.argument("weight", (size,)),
                bias=function.argument("bias", (size,)) if workload.bias else None,
                **_outputs(function, workload, rows),
            )
            share = workload.rows is None or workload.rows * size >= WORTH_SHARING
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
        size, lanes = workload.size, isa_named(self.isa).lanes
        walk = Row(size, lanes, self.unroll)
        wide = lanes if arrays.short is None else max(lanes, SHORT_LANES)
        last = Row(size, wide, max(1, self.unroll * lanes // wide))

        def mean_of(row: Expr) -> Expr:
            return T.bind(walk.sum(partial(arrays.first, row)) * T.float32(1.0 / size))

        means = [mean_of(row) if workload.kind == "layer" else None for row in wanted]

        def squared(row: Expr, mean: Expr, at: Expr, lanes: int) -> Expr:
            if mean is None:
                distance = T.bind(arrays.first(row, at, lanes))
            else:
                distance = T.bind(arrays.again(row, at, lanes) - splat(mean, lanes))
            return distance * distance

        def scale_of(row: Expr, mean: Expr) -> Expr:
            variance = walk.sum(partial(squared, row, mean)) * T.float32(1.0 / size)
            return T.bind(T.float32(1.0) / T.sqrt(variance + T.float32(workload.eps)))

        scales = [scale_of(row, mean) for row, mean in zip(wanted, means, strict=True)]

        def result(row: Expr, mean: Expr, scale: Expr, at: Expr, lanes: int) -> Expr:
            value = arrays.again(row, at, lanes)
            if mean is not None:
                value = value - splat(mean, lanes)
            value = value * splat(scale, lanes) * load(arrays.weight, at, lanes=lanes)
            return value if arrays.bias is None else value + load(arrays.bias, at, lanes=lanes)

        for row, mean, scale in zip(wanted, means, scales, strict=True):
            _write(arrays, last, row, partial(result, row, mean, scale))


def _outputs(function: Builder, workload: Norm, rows: Expr) -> dict[str, Any]:
    """The arguments after the bias: those of a short result, then all results."""
    shape = (rows, workload.size)
    inputs = short_inputs(function, workload.store, workload.size)
    y = function.argument("y", shape) if workload.keep else None
    short = short_outputs(function, workload.store, shape, inputs)
    total = function.argument("total", shape) if workload.keep_sum else None
    return {"short": short, "y": y, "total": total}


def _write(
    arrays: _Arrays, walk: Row, row: Expr, result: Callable[[Expr, int], Expr]
) -> None:
    """Write the `result` of a row wherever it is wanted."""
    def kept(at: Expr, lanes: int) -> Expr:
        value = T.bind(result(at, lanes))
        if arrays.y is not None:
            store(arrays.y, value, row, at)
        return value

    if arrays.short is None:
        walk.sweep(lambda at, lanes, _way: kept(at, lanes))
        return

    def again(at: Expr, lanes: int) -> Expr:
        return result(at, lanes) if arrays.y is None else load(arrays.y, row, at, lanes=lanes)

    arrays.short.write(walk, row, kept, again)
