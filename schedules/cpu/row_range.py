"""Rows of float32 numbers to integers by the range of each, while they are packed for a product."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    lanes_of,
    load,
    splat,
    store,
    workspace,
)
from pocketformer.schedules.cpu.neon_stores import NeonIntegers, neon
from pocketformer.schedules.cpu.rows import Row
from pocketformer.schedules.cpu.short_stores import Integers, RowScale

WAYS = 4            # vectors at a time, as one would wait for its own last maximum


class RowRange:
    """`scale[row]` and `zero[row]` (int32) of the rows of a block, and their numbers as integers.

    What they are is said of quantize_rows in passes/rounding.py.
    """

    def __init__(self, dot: Dot, x: Buffer, rows: int) -> None:
        self.x, self.row = x, Row(int(x.shape[1]), dot.lanes, WAYS)
        self.offset = dot.offset("int8")
        self.integers = NeonIntegers if neon(dot) else Integers
        self.scale = workspace(rows)
        self.zero = workspace(rows, dtype="int32")

    def measure(self, x_row: Expr, row: Expr) -> Callable[[Expr], Expr]:
        """Find the range of row `x_row` of x, the block's `row`.

        Returns what makes a vector of its numbers int8, or uint8 greater by 128 where the product
        wants that.
        """
        ends = self.row.extremes(lambda at, lanes: load(self.x, x_row, at, lanes=lanes))
        found = RowScale.of(*ends)
        store(self.scale, found.scale, row)
        store(self.zero, found.zero, row)
        zero = found.zero + tirx.const(self.offset, "int32")
        rounded = self.integers.of(zero, "uint8" if self.offset else "int8")
        return lambda vector: rounded(vector * splat(found.steps, lanes_of(vector)))
