"""How a linear kernel begins and ends a tile: bias, activation, residual, the part-full panel."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import math, short_math
from pocketformer.schedules.cpu.kernel import (
    STACK,
    Buffer,
    Builder,
    Expr,
    Tile,
    ceil_div,
    load,
    loop,
    registers,
    splat,
    store,
    when,
)
from pocketformer.schedules.workloads import Linear


class Epilogue:
    """Takes the arguments bias, residual and out of `function`, and writes to out."""

    def __init__(
        self, function: Builder, workload: Linear, m: Expr, columns: int, lanes: int
    ) -> None:
        n = workload.n
        self.bias = function.argument("bias", (n,)) if workload.bias else None
        self.residual = function.argument("residual", (m, n)) if workload.residual else None
        self.out = self._output(function, m, n)
        table = short_math if workload.dtype == "bfloat16" else math
        self.activation = workload.activation
        self.activate = table.ACTIVATIONS[workload.activation]
        # LLVM unrolls a loop of known length. With code for every height of a tile, that of a long
        # activation then costs 5 % of a layer; the limit m, never reached, keeps it a loop.
        short = self.activation in ("", "relu") or (
            self.activate is not math.ACTIVATIONS[self.activation])
        unrolled = isinstance(m, int) or short
        self.limit = None if unrolled else m
        self.columns, self.lanes = columns, lanes
        self.panels = ceil_div(n, columns)
        self.live = n - (self.panels - 1) * columns       # columns of the last panel
        self.first: Buffer | None = None
        self.staged: Buffer | None = None
        self.height = 0

    def _output(self, function: Builder, m: Expr, n: int) -> Buffer:
        """The last arguments, of which the very last is written."""
        return function.argument("out", (m, n))

    def begin(self, panel: Expr, rows: int) -> None:
        """Fetch what is the same for all tiles, of at most `rows` rows, of a panel."""
        if self.activation or self.live < self.columns:
            self.height = ceil_div(rows, ceil_div(4 * rows * self.columns, STACK - 1))
            self.staged = registers(self.height, self.columns)
        if self.bias is None:
            return
        self.first = registers(self.columns)
        for column in range(0, self.columns, self.lanes):
            if not self._always_full(column):
                store(self.first, splat(0.0, self.lanes), column)
            self._guarded(panel, column, lambda column, lanes: store(
                self.first, load(self.bias, panel * self.columns + column, lanes=lanes), column))

    def start(self, total: Tile, rows: int) -> None:
        """Set the sums to the bias, or to 0."""
        for r in range(rows):
            for column in range(0, self.columns, self.lanes):
                value = (splat(0.0, self.lanes) if self.first is None
                         else load(self.first, column, lanes=self.lanes))
                total.store(value, r, column)

    def finish(self, total: Tile, panel: Expr, row: Expr, rows: int) -> None:
        """Write the tile from `row` on."""
        if self.staged is None:
            for r in range(rows):
                for column in range(0, self.columns, self.lanes):
                    self._write(panel, row + r, column, total.load(r, column, self.lanes))
            return
        for first in range(0, rows, self.height):
            self._finish_rows(total, panel, row, first, min(self.height, rows - first))

    def _finish_rows(
        self, total: Tile, panel: Expr, row: Expr, first: int, rows: int
    ) -> None:
        """In a loop, which keeps the code short; its index must not touch the registers."""
        staged = self.staged
        for r in range(rows):
            for column in range(0, self.columns, self.lanes):
                store(staged, total.load(first + r, column, self.lanes), r, column)
        row = row + first
        with loop(rows if self.limit is None else tirx.min(rows, self.limit)) as r:
            for column in range(0, self.columns, self.lanes):
                value = self.activate(load(staged, r, column, lanes=self.lanes))
                if self._always_full(column):
                    self._write(panel, row + r, column, value)
                    continue
                store(staged, value, r, column)
                self._guarded(panel, column, lambda column, lanes: self._write(
                    panel, row + r, column, load(staged, r, column, lanes=lanes)))

    def _write(self, panel: Expr, row: Expr, column: int, value: Expr) -> None:
        at = panel * self.columns + column
        if self.residual is not None:
            lanes = 1 if str(value.ty) == "float32" else self.lanes
            value = value + load(self.residual, row, at, lanes=lanes)
        store(self.out, self._stored(value), row, at)

    def _stored(self, value: Expr) -> Expr:
        """`value` as the output holds it."""
        return value

    def _always_full(self, column: int) -> bool:
        return column + self.lanes <= self.live

    def _guarded(
        self, panel: Expr, column: int, action: Callable[[int, int], None]
    ) -> None:
        """`action(column, lanes)` for a vector of the panel, number by number where it is cut."""
        if self._always_full(column):
            action(column, self.lanes)
            return
        if self.panels > 1:
            with T.If(panel < self.panels - 1), T.Then():
                action(column, self.lanes)
        if column < self.live:
            with when(True if self.panels == 1 else panel == self.panels - 1):
                for cut in range(column, self.live):
                    action(cut, 1)
