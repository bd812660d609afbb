"""float32 vectors to integers by the instructions of 64-bit Arm, which saturate by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.kernel import Expr, lanes_of
from pocketformer.schedules.cpu.short_stores import Integers

WIDE = 8      # numbers that are narrowed at a time
_LAST = {"int8": "sqxtn", "uint8": "sqxtun"}


def neon(dot: Dot) -> bool:
    """Whether code with this product runs where these instructions are."""
    return dot.arch == "aarch64" and bool(dot.llvm)


@dataclass(frozen=True)
class NeonIntegers:
    """As `Integers`, of vectors of 4 or of eights; NaN becomes `zero`."""

    zeros: Expr
    scalar: Integers

    @staticmethod
    def of(zero: Expr, dtype: str) -> NeonIntegers:
        """For a scalar expression."""
        zeros = T.bind(T.broadcast(zero.astype("int16"), WIDE))
        return NeonIntegers(zeros, Integers.of(zero, dtype))

    def __call__(self, value: Expr) -> Expr:
        """A float32 scalar or vector as integers; four of them as one int32 word.

        A vector of four bytes is none that LLVM could do anything with.
        """
        if (lanes := lanes_of(value)) == 1:
            return self.scalar(value)
        if lanes > WIDE:
            halves = [_part(value, at, lanes // 2) for at in (0, lanes // 2)]
            return tirx.Shuffle([self(half) for half in halves], list(range(lanes)))
        low = _steps(value, 0)
        high = _steps(value, 4) if lanes == WIDE else tirx.const(0, "int16x4")
        steps = tirx.call_llvm_pure_intrin(
            "int16x8", "llvm.sadd.sat", tirx.Shuffle([low, high], list(range(WIDE))), self.zeros)
        dtype = self.scalar.dtype
        result = tirx.call_llvm_pure_intrin(
            f"{dtype}x8", f"llvm.aarch64.neon.{_LAST[dtype]}.v8i8", steps)
        if lanes == WIDE:
            return result
        return tirx.Shuffle([tirx.reinterpret("int32x2", result)], [0])


def _part(value: Expr, first: int, count: int) -> Expr:
    return tirx.Shuffle([value], list(range(first, first + count)))


def _steps(value: Expr, first: int) -> Expr:
    """Four numbers of `value` from the `first` on, rounded to int16."""
    four = _part(value, first, 4) if lanes_of(value) > 4 else value
    words = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.fcvtns.v4i32.v4f32", four)
    return T.bind(tirx.call_llvm_pure_intrin("int16x4", "llvm.aarch64.neon.sqxtn.v4i16", words))
