"""How a linear kernel of integers ends a tile: sums to float32, and if asked, to integers again."""

from __future__ import annotations

from tvm import tirx

from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Builder,
    Expr,
    lanes_of,
    load,
    registers,
    splat,
    store,
)
from pocketformer.schedules.cpu.math import constant
from pocketformer.schedules.workloads import QuantizedLinear

RANGE = {"int8": (-128, 127), "uint8": (0, 255)}
_ROUND = 12582912.0          # 1.5 * 2^23: a small number that is added to it is rounded to integers
_ROUND_BITS = 0x4B400000     # its bits; a unit in the last place is 1


class QuantizedEpilogue(Epilogue):
    """Also takes the arguments with the scales, in front of the others."""

    def __init__(
        self, function: Builder, workload: QuantizedLinear, m: Expr, columns: int, dot: Dot
    ) -> None:
        count = m if workload.per_row else 1
        self.scales = function.argument("weight_scale", (workload.n,))
        self.column_sums = function.argument("weight_sum", (workload.n,), "int32")
        self.x_scale = function.argument("x_scale", (count,))
        self.x_zero = (
            function.argument("x_zero", (count,), "int32") if workload.zero else None)
        self.per_row, self.out_dtype = workload.per_row, workload.out_dtype
        self.offset = dot.offset(workload.x_dtype)
        super().__init__(function, workload.in_float32, m, columns, dot.lanes)

    def _output(self, function: Builder, m: Expr, n: int) -> Buffer:
        if self.out_dtype != "float32":
            self.out_scale = function.argument("out_scale", (1,))
            self.out_zero = function.argument("out_zero", (1,), "int32")
        return function.argument("out", (m, n), self.out_dtype)

    def begin(self, panel: Expr, rows: int) -> None:
        """Fetch the columns' scales, too, and what to take from their sums."""
        super().begin(panel, rows)
        self.own_scales = self._of_panel(self.scales, panel)
        if self.offset or self.x_zero is not None:
            self.own_sums = self._of_panel(self.column_sums, panel)

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

    def scaled(self, sums: Expr, row: Expr, column: int) -> Expr:
        """What a vector of int32 sums stands for, in float32."""
        at = row if self.per_row else 0
        if self.offset or self.x_zero is not None:
            zero = self.offset if self.x_zero is None else self.x_zero[at] + self.offset
            zeros = splat(tirx.const(zero, "int32") if isinstance(zero, int) else zero, self.lanes)
            sums = sums - zeros * load(self.own_sums, column, lanes=self.lanes)
        scale = splat(self.x_scale[at], self.lanes) * load(
            self.own_scales, column, lanes=self.lanes)
        return sums.astype(f"float32x{self.lanes}") * scale

    def _stored(self, value: Expr) -> Expr:
        if self.out_dtype == "float32":
            return value
        lanes = lanes_of(value)
        low, high = (splat((tirx.const(end, "int32") - self.out_zero[0]).astype("float32"), lanes)
                     for end in RANGE[self.out_dtype])
        steps = tirx.min(tirx.max(value / splat(self.out_scale[0], lanes), low), high)
        bits = tirx.reinterpret(_typed("int32", lanes), steps + constant(_ROUND, steps))
        whole = bits - constant(_ROUND_BITS, bits) + splat(self.out_zero[0], lanes)
        return whole.astype(_typed(self.out_dtype, lanes))


def _typed(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype
