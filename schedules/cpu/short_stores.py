"""float32 as the short numbers that are stored, rounded to nearest with ties to even."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.kernel import Expr, lanes_of, splat, typed
from pocketformer.schedules.cpu.math import ROUND, ROUND_BITS

RANGE = {"int8": (-128, 127), "uint8": (0, 255)}
TINY = 1e-30    # a row in smaller steps is taken for zeros, as 1 / step may be infinite


@dataclass(frozen=True)
class Integers:
    """clip(round(value) + zero) of an int32 `zero`, for values in steps of the scale.

    What does not depend on the value is computed where it is made: outside of loops. NaN becomes
    some number of the range. The last addition wraps in bytes, which LLVM makes it one of.
    """

    zero: Expr
    low: Expr
    high: Expr
    dtype: str

    @staticmethod
    def of(zero: Expr | int, dtype: str = "int8") -> Integers:
        """For a scalar expression, or a number."""
        if isinstance(zero, int):
            zero = tirx.const(zero, "int32")
        low, high = (T.bind((tirx.const(end, "int32") - zero).astype("float32"))
                     for end in RANGE[dtype])
        return Integers(zero, low, high, dtype)

    def __call__(self, value: Expr) -> Expr:
        """A float32 scalar or vector as `dtype`."""
        lanes = lanes_of(value)
        held = tirx.min(tirx.max(value, splat(self.low, lanes)), splat(self.high, lanes))
        bits = tirx.reinterpret(typed("int32", lanes), held + splat(ROUND, lanes))
        shift = self.zero - tirx.const(ROUND_BITS, "int32")
        return (bits + splat(shift, lanes)).astype(typed(self.dtype, lanes))


@dataclass(frozen=True)
class RowScale:
    """The scale that spreads a row over int8, `steps` = 1 / scale, and the zero (int32)."""

    scale: Expr
    steps: Expr
    zero: Expr

    @staticmethod
    def of(low: Expr, high: Expr) -> RowScale:
        """For numbers from `low`, at most 0, to `high`, at least 0: as quantize_rows does.

        Numbers are multiplied by 1 / scale, so one near the middle of two integers may become the
        other one. Where `low` or `high` is NaN the scale is, and so is what it multiplies.
        """
        least, most = RANGE["int8"]
        share = T.float32(1.0 / (most - least))
        step = T.bind(high * share - low * share)    # high - low could be too large for float32
        scale = T.bind(tirx.Select(step <= T.float32(TINY), T.float32(1.0), step))
        steps = T.bind(T.float32(1.0) / scale)
        zero = T.float32(least) - low * steps + T.float32(ROUND)
        bits = tirx.reinterpret("int32", zero)
        return RowScale(scale, steps, T.bind(bits - tirx.const(ROUND_BITS, "int32")))


def bfloat16(value: Expr) -> Expr:
    """A float32 scalar or vector as bfloat16."""
    return value.astype(typed("bfloat16", lanes_of(value)))
