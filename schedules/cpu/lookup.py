"""Rows of a table of short numbers, looked up by their places and scaled to float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    load,
    loop,
    parallel_loop,
    prim_func,
    splat,
    store,
    typed,
)
from pocketformer.schedules.cpu.math import constant
from pocketformer.schedules.cpu.weight_formats import OFFSET
from pocketformer.schedules.workloads import Lookup

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16     # numbers: some 5 us of one core
STEP = 16                   # numbers at a time: so many bytes are a vector on every machine


@dataclass(frozen=True)
class RowLookup:
    """One row after the other; there is nothing to choose."""

    isa: str

    @property
    def name(self) -> str:
        return f"f32_lookup_{STEP}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Lookup)

    @classmethod
    def space(cls, target: Target, workload: Lookup) -> Iterator[RowLookup]:
        yield cls.default(target, workload)

    @classmethod
    def default(cls, target: Target, workload: Lookup) -> RowLookup:
        return cls(isa_of(target).name)

    def kernel(self, workload: Lookup, target: Target) -> Kernel:
        return Kernel(self.name, self.build(workload))

    def build(self, workload: Lookup) -> tirx.PrimFunc:
        """ids[rows], table[count, size or size / 2], scale[count, groups] -> y[rows, size]."""
        size, count, short = workload.size, workload.count, workload.bits == 4
        table_shape, kind = ((count, size // 2), "uint8") if short else ((count, size), "int8")
        with prim_func(self.name) as function:
            rows = function.size("rows", workload.rows)
            ids = function.argument("ids", (rows,), workload.ids_dtype)
            table = function.argument("table", table_shape, kind)
            scale = function.argument("scale", (count, size // workload.group))
            y = function.argument("y", (rows, size))
            share = workload.rows is None or workload.rows * size >= WORTH_SHARING
            with parallel_loop(rows, share) as row:
                at = _place(ids[row], count)
                with loop(size // workload.group) as group:
                    _write(workload, table, at, T.bind(scale[at, group]), y, row, group)
        return function.func


def _place(given: Expr, count: int) -> Expr:
    """A row of the table: negative numbers count from its end."""
    number = T.bind(given.astype("int64"))
    place = tirx.Select(number < 0, number + count, number)
    return T.bind(tirx.max(tirx.min(place, T.int64(count - 1)), T.int64(0)))


def _write(
    workload: Lookup, table: Buffer, at: Expr, scale: Expr, y: Buffer, row: Expr, group: Expr
) -> None:
    """Write the numbers of a group of columns, which share a scale."""
    size = workload.group
    numbers = _pairs if workload.bits == 4 else _bytes

    def visit(column: Any, lanes: int) -> None:
        value = numbers(table, at, column, lanes)
        value = value.astype(typed("float32", lanes))
        store(y, value * splat(scale, lanes), row, column)

    with loop(size // STEP) as step:
        visit(group * size + step * STEP, STEP)
    least = 2 if workload.bits == 4 else 1
    with loop(size % STEP // least) as rest:
        visit(group * size + size // STEP * STEP + rest * least, least)


def _bytes(table: Buffer, at: Expr, column: Expr, lanes: int) -> Expr:
    return load(table, at, column, lanes=lanes)


def _pairs(table: Buffer, at: Expr, column: Expr, lanes: int) -> Expr:
    """Of each byte the lower half, then the upper one."""
    half = lanes // 2
    packed = T.bind(load(table, at, column // 2, lanes=half))
    parts = [packed & constant(15, packed), packed >> constant(4, packed)]
    order = [i + half * part for i in range(half) for part in range(2)]
    halves = tirx.Shuffle([T.bind(part) for part in parts], order)
    numbers = tirx.reinterpret(f"int8x{lanes}", halves)
    return numbers - constant(OFFSET, numbers)
