"""Memory full of weights, of which a call reads some that no cache holds any more."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from tvm import DataType, tirx

from pocketformer.schedules.cpu.kernel import (
    Expr,
    ceil_div,
    loop,
    parallel_loop,
    prim_func,
    store,
    when,
)

_BLOCK = 1 << 16        # bytes that a thread fills at a time

# By dtype, of a number's bits: those that are set, and those that are random. All lie between 2^-7
# and 2^-3, of either sign: sums of their products stay small, and none is denormal, which is slow.
_BITS = {
    "float32": (0x3C000000, 0x81FFFFFF),
    "bfloat16": (0x3C00, 0x81FF),
    "float16": (0x2000, 0x8FFF),
    "int8": (0x01, 0xFE),       # never -128, which no weight is
}


@dataclass(frozen=True)
class WeightPool:
    """`slots` pieces of memory, each for a weight of up to `largest` bytes of `dtype`.

    Calls take one after another, so that the weights of all others are read before one's again.
    """

    dtype: str
    largest: int
    slots: int

    @classmethod
    def of(cls, dtype: str, largest: int, cold_bytes: int) -> WeightPool:
        """One in which `cold_bytes` are read before the same weight again."""
        return cls(dtype, largest, 1 + int(ceil_div(cold_bytes, largest)))

    @property
    def word(self) -> str:
        """The unsigned integer that is as long as a number."""
        return f"uint{DataType(self.dtype).bits}"

    @property
    def words(self) -> int:
        """Of a slot: one more than of the largest weight, for the mark of `fill`."""
        return self.largest // int(DataType(self.dtype).itemsize) + 1

    @property
    def bytes(self) -> int:
        """Of a slot."""
        return self.words * int(DataType(self.dtype).itemsize)

    def fill(self) -> tirx.PrimFunc:
        """slot[words] -> weights, unless its last word tells that they are there already.

        The virtual machine gives the same memory to every run, so that only the first one fills it.
        """
        every = (1 << DataType(self.word).bits) - 1
        ones, random = (tirx.const(bits, self.word) for bits in _BITS.get(self.dtype, (0, every)))
        mark = tirx.const(crc32(self.dtype.encode()) & every, self.word)
        block = _BLOCK // DataType(self.word).itemsize
        with prim_func("fill") as function:
            slot = function.argument("slot", (self.words,), self.word)
            last = self.words - 1
            with when(slot[last] != mark):
                with parallel_loop(ceil_div(last, block), True) as number, loop(block) as i:
                    at = number * block + i
                    with when(at < last):
                        store(slot, _scrambled(at, self.word) & random | ones, at)
                store(slot, mark, last)
        return function.func.without_attr("global_symbol")


def _scrambled(number: Expr, word: str) -> Expr:
    """The bits of `number` mixed, so that those of neighbours have nothing in common."""
    mixed = number.astype("uint32") * tirx.const(2654435761, "uint32")    # of Knuth, 6.4
    mixed = mixed ^ (mixed >> tirx.const(15, "uint32"))
    mixed = mixed * tirx.const(2246822519, "uint32")
    return (mixed >> tirx.const(32 - DataType(word).bits, "uint32")).astype(word)
