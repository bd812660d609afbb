"""How a linear kernel of integers begins and ends a tile: zeros, scales, what is left of them."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.epilogue import Epilogue, Rounding
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Builder,
    Expr,
    Tile,
    load,
    registers,
    splat,
    store,
)
from pocketformer.schedules.cpu.neon_stores import WIDE, NeonIntegers, neon
from pocketformer.schedules.workloads import QuantizedLinear


class QuantizedEpilogue(Epilogue):
    """Also takes the arguments with the scales, in front of the others.

    Sums start from -zero times those of the weights, so that nothing is left to subtract; `zero` is
    that of x and what the machine's products want added to x. Where the result is neither put
    through an activation nor added to anything, its factor is one with the scale of the sums.
    """

    def __init__(
        self, function: Builder, workload: QuantizedLinear, m: Expr, columns: int, dot: Dot
    ) -> None:
        self.dot, self.offset = dot, dot.offset(workload.x_dtype)
        self.kept = "int32" if workload.out_dtype == "int32" else "float32"
        self.by_kernel = workload.x_dtype == "float32"
        self.per_row = workload.per_row or self.by_kernel
        count = m if workload.per_row else 1
        self.scales = function.argument("weight_scale", (workload.n,))
        self.column_sums = function.argument("weight_sum", (workload.n,), "int32")
        self.x_scale: Buffer = None
        self.x_zero: Buffer | None = None
        if not self.by_kernel:
            self.x_scale = function.argument("x_scale", (count,))
            if workload.zero:
                self.x_zero = function.argument("x_zero", (count,), "int32")
        super().__init__(function, workload, m, columns, dot.lanes)
        plain = not self.activation and self.residual is None
        whole = self.out_factor is not None and workload.n % 4 == 0
        self.neon = whole and neon(dot)
        self.wide = WIDE if self.neon else 0
        self.words: Buffer | None = None      # of `out`: four numbers each
        self.folded = self.out_factor is not None and plain

    def _rounding(self) -> Rounding:
        if self.neon:
            return NeonIntegers.of(self.out_zero[0], self.out_dtype)
        return super()._rounding()

    def take(self, scale: Buffer, zero: Buffer) -> None:
        """Those that the kernel finds for each row."""
        self.found = (scale, zero)

    @property
    def _corrected(self) -> bool:
        return bool(self.offset) or self.x_zero is not None or self.by_kernel

    def begin(self, panel: Expr, rows: int) -> None:
        """Fetch the columns' scales and sums, too, and join what is the same for all rows."""
        super().begin(panel, rows)
        if self.neon:
            m, n = self.out.shape
            self.words = T.decl_buffer((m, n // 4), "int32", data=self.out.data)
        if self.kept == "float32":
            self.own_scales = self._of_panel(self.scales, panel)
            if not self.per_row:
                self._times(self.own_scales, splat(self.x_scale[0], self.lanes))
            if self.folded:
                for held in (self.own_scales, self.first):
                    if held is not None:
                        self._times(held, self.factors)
        if self._corrected:
            self.own_sums = self._of_panel(self.column_sums, panel)
            if not self.per_row:
                self._times(self.own_sums, splat(self._start(0), self.lanes))

    def _times(self, held: Buffer, factor: Buffer | Expr) -> None:
        for column in range(0, self.columns, self.lanes):
            each = (load(factor, column, lanes=self.lanes) if isinstance(factor, tirx.Buffer)
                    else factor)
            store(held, load(held, column, lanes=self.lanes) * each, column)

    def _start(self, row: Expr) -> Expr:
        """What the sums of the weights are times of where those of the products start."""
        offset = tirx.const(-self.offset, "int32")
        return offset if self.x_zero is None else offset - self.x_zero[row]

    def start_sums(self, sums: Tile, row: Expr, rows: int) -> None:
        """Begin the sums of `rows` rows from `row` on, as the machine's products lie in them."""
        if self.by_kernel:
            row = self._fetch(row, rows)
        self.row = row
        step = 2 if self.dot.matrix else 1
        starts = [T.bind(self._start(row + r)) if self.per_row and self._corrected else None
                  for r in range(rows)]
        for r in range(0, rows, step):
            for column in range(0, self.columns, self.lanes):
                values = self._starts(starts[r : r + step], column)
                if not self.dot.matrix:
                    sums.store(values[0], r, column)
                    continue
                low, high = values[0], values[-1]
                for half in range(2):
                    order = [2 * half, 2 * half + 1, 4 + 2 * half, 5 + 2 * half]
                    sums.store(tirx.Shuffle([low, high], order), r // 2, 2 * column + 4 * half)

    def _fetch(self, row: Expr, rows: int) -> int:
        """Bring what the kernel found for `rows` rows from `row` on to row 0 of small buffers.

        TVM bounds each access to a workspace, which takes it seconds; so there are only these.
        """
        scale, zero = self.found
        self.x_scale, self.x_zero = registers(rows), registers(rows, dtype="int32")
        store(self.x_scale, load(scale, row, lanes=rows), 0)
        store(self.x_zero, load(zero, row, lanes=rows), 0)
        return 0

    def _starts(self, starts: list[Expr | None], column: int) -> list[Expr]:
        """A vector of columns for each row."""
        if not self._corrected:
            return [splat(tirx.const(0, "int32"), self.lanes)]
        own = load(self.own_sums, column, lanes=self.lanes)
        return [own if start is None else splat(start, self.lanes) * own for start in starts]

    def result(self, sums: Expr, r: int, column: int) -> Expr:
        """What a vector of the sums of row `r` of a tile stands for, plus the bias."""
        if self.kept == "int32":
            return sums
        scaled = sums.astype(f"float32x{self.lanes}") * load(
            self.own_scales, column, lanes=self.lanes)
        if self.per_row:
            scaled = scaled * splat(self.x_scale[self.row + r], self.lanes)
        if self.first is not None:
            scaled = scaled + load(self.first, column, lanes=self.lanes)
        return scaled

    def _stored(self, value: Expr, column: int) -> Expr:
        if self.folded and self.rounding is not None:
            return self.rounding(value)
        return super()._stored(value, column)

    def _store(self, value: Expr, row: Expr, at: Expr) -> None:
        if self.words is not None and str(value.ty) == "int32":
            store(self.words, value, row, at // 4)
        else:
            super()._store(value, row, at)
