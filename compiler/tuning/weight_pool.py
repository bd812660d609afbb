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

ALIGNMENT = 64
# Between two slots: else the same rows of all of them would begin at the same place of a page.
_GAP = 17 * ALIGNMENT
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
    """`slots` times room for a weight of up to `largest` bytes of `dtype`; calls take turns.

    Between two reads of a slot lie those of all others.
    """

    dtype: str
    largest: int
    slots: int

    @classmethod
    def of(cls, dtype: str, largest: int, cold_bytes: int) -> WeightPool:
        """One whose slots are read again after `cold_bytes` of others."""
        return cls(dtype, largest, 1 + int(ceil_div(cold_bytes, largest)))

    @property
    def step(self) -> int:
        """Bytes from one slot to the next."""
        return int(ceil_div(self.largest, ALIGNMENT)) * ALIGNMENT + _GAP

    @property
    def bytes(self) -> int:
        """Of all; before the first slot lies the mark of `fill`."""
        return ALIGNMENT + self.slots * self.step

    def offset(self, call: int) -> int:
        """Where the weight of the `call`-th call begins."""
        return ALIGNMENT + call % self.slots * self.step

    @property
    def words(self) -> tuple[int, str]:
        """How many numbers it holds, and the unsigned integer that is as long as one."""
        dtype = DataType(self.dtype)
        return self.bytes // dtype.itemsize, f"uint{dtype.bits}"

    def fill(self) -> tirx.PrimFunc:
        """pool[words] -> weights, unless its first word tells that they are there already.

        The virtual machine gives the same memory to every run, so that only the first one fills it.
        """
        count, word = self.words
        every = (1 << DataType(word).bits) - 1
        ones, random = (tirx.const(bits, word) for bits in _BITS.get(self.dtype, (0, every)))
        mark = tirx.const(crc32(self.dtype.encode()) & every, word)
        block = _BLOCK // DataType(word).itemsize
        with prim_func("fill") as function:
            pool = function.argument("pool", (count,), word)
            with when(pool[0] != mark):
                with parallel_loop(ceil_div(count, block), True) as number, loop(block) as i:
                    at = number * block + i
                    with when(at < count):
                        store(pool, _scrambled(at, word) & random | ones, at)
                store(pool, mark, 0)
        return function.func.without_attr("global_symbol")


def _scrambled(number: Expr, word: str) -> Expr:
    """The bits of `number` mixed, so that those of neighbours have nothing in common."""
    mixed = number.astype("uint32") * tirx.const(2654435761, "uint32")    # of Knuth, 6.4
    mixed = mixed ^ (mixed >> tirx.const(15, "uint32"))
    mixed = mixed * tirx.const(2246822519, "uint32")
    return (mixed >> tirx.const(32 - DataType(word).bits, "uint32")).astype(word)
