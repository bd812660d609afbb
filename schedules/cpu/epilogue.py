"""How a linear kernel begins and ends a tile: bias, activation, residual, the part-full panel, and
what dtype the result is rounded to."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import activations, short_math, short_stores
from pocketformer.schedules.cpu.kernel import (
    STACK,
    Buffer,
    Builder,
    Expr,
    Tile,
    ceil_div,
    lanes_of,
    load,
    loop,
    registers,
    splat,
    store,
    when,
)
from pocketformer.schedules.cpu.short_stores import RANGE, Integers
from pocketformer.schedules.workloads import Linear, QuantizedLinear

Rounding = Callable[[Expr], Expr]


class Epilogue:
    """Takes the arguments from bias to out of `function`, and writes to out."""

    kept = "float32"      # dtype of a tile's results before they are written
    wide = 0              # how many are best written at a time, if not a vector

    def __init__(
        self, function: Builder, workload: Linear | QuantizedLinear, m: Expr, columns: int,
        lanes: int,
    ) -> None:
        n, self.out_dtype = workload.n, workload.out_dtype
        self.bias = function.argument("bias", (n,)) if workload.bias else None
        self.residual = function.argument("residual", (m, n)) if workload.residual else None
        self.out_factor: Buffer | None = None
        self.out_zero: Buffer = None
        if self.out_dtype in RANGE:
            self.out_factor = function.argument("out_factor", (n,))
            self.out_zero = function.argument("out_zero", (1,), "int32")
        self.out = function.argument("out", (m, n), self.out_dtype)
        rough = workload.dtype in ("bfloat16", "int8") or self.out_dtype in ("bfloat16", *RANGE)
        table = short_math if rough else activations
        self.activation = workload.activation
        self.activate = table.ACTIVATIONS[workload.activation]
        # LLVM unrolls a loop of known length. With code for every height of a tile, that of a long
        # activation then costs 5 % of a layer; the limit m, never reached, keeps it a loop.
        short = self.activation in ("", "relu") or (
            self.activate is not activations.ACTIVATIONS[self.activation])
        unrolled = isinstance(m, int) or short
        self.limit = None if unrolled else m
        self.columns, self.lanes = columns, lanes
        self.panels = ceil_div(n, columns)
        self.live = n - (self.panels - 1) * columns       # columns of the last panel
        self.first: Buffer | None = None
        self.factors: Buffer | None = None
        self.rounding: Rounding | None = None
        self.staged: Buffer | None = None
        self.height = 0

    def begin(self, panel: Expr, rows: int) -> None:
        """Fetch what is the same for all tiles, of at most `rows` rows, of a panel."""
        if self.activation or self.live < self.columns:
            # As many rows as fit, then as even as they get.
            most = max(1, (STACK - 1) // (4 * self.columns))
            self.height = ceil_div(rows, ceil_div(rows, most))
            self.staged = registers(self.height, self.columns, dtype=self.kept)
        if self.bias is not None:
            self.first = self._of_panel(self.bias, panel)
        if self.out_factor is not None:
            self.factors = self._of_panel(self.out_factor, panel)
            self.rounding = self._rounding()

    def _rounding(self) -> Rounding:
        """What makes integers of results times their factors."""
        return Integers.of(self.out_zero[0], self.out_dtype)

    def _of_panel(self, source: Buffer, panel: Expr) -> Buffer:
        """The numbers of `source` for the columns of a panel, 0 behind the last."""
        dtype = str(source.dtype)
        held = registers(self.columns, dtype=dtype)
        for column in range(0, self.columns, self.lanes):
            if not self._always_full(column):
                store(held, splat(tirx.const(0, dtype), self.lanes), column)
            self._guarded(panel, column, lambda column, lanes: store(
                held, load(source, panel * self.columns + column, lanes=lanes), column))
        return held

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
                for column, lanes in self._pieces():
                    self._write(panel, row + r, column, total.load(r, column, lanes))
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
            for column, lanes in self._pieces():
                value = self.activate(load(staged, r, column, lanes=lanes))
                if self._always_full(column):
                    self._write(panel, row + r, column, value)
                    continue
                store(staged, value, r, column)
                self._guarded(panel, column, lambda column, lanes: self._write(
                    panel, row + r, column, load(staged, r, column, lanes=lanes)))

    def _pieces(self) -> list[tuple[int, int]]:
        """Columns and how many of them are written at a time; vectors where a panel may be cut."""
        wide = self.wide if self.wide and self.live == self.columns else self.lanes
        whole = self.columns // wide * wide
        return [(at, wide) for at in range(0, whole, wide)] + [
            (at, self.lanes) for at in range(whole, self.columns, self.lanes)]

    def _write(self, panel: Expr, row: Expr, column: int, value: Expr) -> None:
        at = panel * self.columns + column
        if self.residual is not None:
            value = value + load(self.residual, row, at, lanes=lanes_of(value))
        self._store(self._stored(value, column), row, at)

    def _store(self, value: Expr, row: Expr, at: Expr) -> None:
        store(self.out, value, row, at)

    def _stored(self, value: Expr, column: int) -> Expr:
        """`value` as the output holds it."""
        if self.rounding is not None:
            return self.rounding(value * load(self.factors, column, lanes=lanes_of(value)))
        return short_stores.bfloat16(value) if self.out_dtype == "bfloat16" else value

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
