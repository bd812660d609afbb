"""Products of short numbers, several to a lane: one class a way in which machines form them.

The factors lie in 32-bit words: two bfloat16 or four int8 numbers that are neighbours in k. Where
the machine multiplies whole words, x is packed into words as well; where it does not, both factors
are widened, and each word of weights gives `parts` vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from tvm import tirx

from pocketformer.schedules.cpu.kernel import Expr, lanes_of
from pocketformer.schedules.cpu.math import constant

SIGNS = -0x7F7F7F80      # 0x80808080: turns int8 into uint8, each greater by 128, and back


@dataclass(frozen=True)
class Dot(ABC):
    """Weights lie as [panel, k / group, column, group]; a vector of them has `lanes` words.

    `needs` and `arch` say which targets have it. `tiles`, `panels`, `unroll` and `by_lane` mean
    what they do in `Isa`. With `matrix`, one instruction multiplies two rows by two columns, two
    groups of each: each of the four pairs has a lane of the sums.
    """

    name: str
    arch: str
    needs: frozenset[str]
    group: int
    lanes: int
    tiles: tuple[tuple[int, int], ...]
    panels: tuple[int, ...]
    unroll: int = 1
    by_lane: bool = False
    matrix: bool = False

    dtype: ClassVar[str]      # of the weights
    sums: ClassVar[str]       # dtype
    word: ClassVar[str] = "int32"    # dtype of what x is packed into
    held: ClassVar[str] = "int32"    # dtype as which weights are loaded
    block: ClassVar[int] = 0         # groups of k that `sums` may add up; 0: any number

    @property
    def parts(self) -> int:
        """Words of packed x for one word of weights, and vectors that `right` gives."""
        return 1

    @property
    def depth(self) -> int:
        """Groups of k that one instruction multiplies."""
        return 2 if self.matrix else 1

    @property
    def products(self) -> int:
        """Products that `add` adds up."""
        return self.lanes * self.group * self.depth // self.parts

    @property
    def values(self) -> int:
        """Numbers of x in a packed word."""
        return self.group // self.parts

    @property
    def llvm(self) -> str:
        """Functions in LLVM's language that a kernel has to import, or an empty string.

        TVM itself would turn bfloat16 vectors into float32 ones, also those of an instruction.
        """
        return ""

    def offset(self, x_dtype: str) -> int:
        """What `left` adds to each integer of x."""
        return 0

    @abstractmethod
    def left(self, values: Expr) -> Expr:
        """A vector of packed words from neighbours of a row of x, `values` to the word."""

    def stored(self, bits: Expr) -> Expr:
        """What `left` gives, of uint16 vectors of numbers that are bfloat16 already."""
        return tirx.reinterpret(f"int32x{self.lanes}", bits)

    def right(self, words: Expr) -> list[Expr]:
        """The factors, `parts` of them, in a vector of int32 words of weights."""
        return [words]

    @abstractmethod
    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        """`sums` and the products of `left`, a vector of words, with one part of the weights."""

    def _call(self, dtype: str, function: str, *args: Expr) -> Expr:
        return tirx.call_pure_extern(dtype, f"pocketformer_{self.name}{function}", *args)


@dataclass(frozen=True)
class BFloat16Dot(Dot):
    """An instruction of the machine for pairs of bfloat16; it also rounds x to bfloat16."""

    intrinsic: str = ""

    dtype = "bfloat16"
    sums = "float32"

    @property
    def llvm(self) -> str:
        words, pairs = f"<{self.lanes} x i32>", f"<{2 * self.lanes} x bfloat>"
        floats = f"<{2 * self.lanes} x float>"
        rounding = f"""
define linkonce_odr {words} @pocketformer_{self.name}_words({floats} %x) alwaysinline {{
  %b = fptrunc {floats} %x to {pairs}
  %w = bitcast {pairs} %b to {words}
  ret {words} %w
}}
"""
        return _function(self, self.intrinsic, "float", pairs) + rounding

    def left(self, values: Expr) -> Expr:
        return self._call(f"int32x{self.lanes}", "_words", values)

    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        return self._call(f"float32x{self.lanes}", "", sums, left, right)


@dataclass(frozen=True)
class BFloat16Widened(Dot):
    """Float32 arithmetic on bfloat16 numbers; x is rounded to them, as by an instruction."""

    dtype = "bfloat16"
    sums = word = "float32"

    @property
    def parts(self) -> int:
        return 2

    def left(self, values: Expr) -> Expr:
        lanes = lanes_of(values)
        bits = tirx.reinterpret(f"int32x{lanes}", values)
        one, half = constant(1, bits), constant(0x7FFF, bits)
        rounded = bits + half + ((bits >> constant(16, bits)) & one)
        quiet = bits | constant(1 << 22, bits)      # rounding could make a NaN infinite
        chosen = tirx.Select(tirx.isnan(values), quiet, rounded) & constant(-1 << 16, bits)
        return tirx.reinterpret(f"float32x{lanes}", chosen)

    def stored(self, bits: Expr) -> Expr:
        wide = bits.astype(f"int32x{lanes_of(bits)}")
        return tirx.reinterpret(f"float32x{lanes_of(bits)}", wide << constant(16, wide))

    def right(self, words: Expr) -> list[Expr]:
        first, second = words << constant(16, words), words & constant(-1 << 16, words)
        dtype = f"float32x{lanes_of(words)}"
        return [tirx.reinterpret(dtype, half) for half in (first, second)]

    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        return sums + left * right


@dataclass(frozen=True)
class Float16Products(Dot):
    """Arithmetic in float16, of which a vector holds twice as many; a block at a time.

    128 products are added up with an error of some 2^-9 of the largest sum; blocks in float32.
    """

    dtype = sums = word = held = "float16"
    block = 128

    def left(self, values: Expr) -> Expr:
        return values.astype(f"float16x{lanes_of(values)}")

    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        return sums + left * right


@dataclass(frozen=True)
class Int8Dot(Dot):
    """An instruction of the machine for four (or eight) int8 products; x is uint8 if `unsigned`."""

    intrinsic: str = ""
    unsigned: bool = False

    dtype = "int8"
    sums = "int32"

    @property
    def llvm(self) -> str:
        return _function(self, self.intrinsic, "i32", f"<{4 * self.lanes} x i8>")

    def offset(self, x_dtype: str) -> int:
        if self.unsigned == (x_dtype == "uint8"):
            return 0
        return 128 if self.unsigned else -128

    def left(self, values: Expr) -> Expr:
        words = tirx.reinterpret(f"int32x{self.lanes}", values)
        return words ^ constant(SIGNS, words) if self.offset(_scalar(values)) else words

    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        return self._call(f"int32x{self.lanes}", "", sums, left, right)


@dataclass(frozen=True)
class Int8Pairs(Dot):
    """x86's product of int16 pairs, once for the even and once for the odd of four numbers."""

    intrinsic: str = ""

    dtype = "int8"
    sums = "int32"

    @property
    def parts(self) -> int:
        return 2

    def left(self, values: Expr) -> Expr:
        lanes = lanes_of(values)
        order = [at + each for at in range(0, lanes, 4) for each in (0, 2, 1, 3)]
        wide = tirx.Shuffle([values.astype(f"int16x{lanes}")], order)
        return tirx.reinterpret(f"int32x{lanes // 2}", wide)

    def right(self, words: Expr) -> list[Expr]:
        pairs = tirx.reinterpret(f"int16x{2 * self.lanes}", words)
        eight = constant(8, pairs)
        return [(pairs << eight) >> eight, pairs >> eight]

    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        pairs = tirx.reinterpret(f"int16x{2 * self.lanes}", left)
        dtype = f"int32x{self.lanes}"
        return sums + tirx.call_llvm_pure_intrin(dtype, self.intrinsic, right, pairs)


@dataclass(frozen=True)
class Int8Widened(Dot):
    """Int32 arithmetic on int8 numbers."""

    dtype = "int8"
    sums = "int32"

    @property
    def parts(self) -> int:
        return 4

    def left(self, values: Expr) -> Expr:
        return values.astype(f"int32x{lanes_of(values)}")

    def right(self, words: Expr) -> list[Expr]:
        last = constant(24, words)
        kept = [words << constant(24 - 8 * i, words) if i < 3 else words for i in range(4)]
        return [word >> last for word in kept]

    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        return sums + left * right


def _function(dot: Dot, intrinsic: str, total: str, factors: str) -> str:
    """An LLVM function of sums and two vectors of words that calls an intrinsic of LLVM."""
    sums, words = f"<{dot.lanes} x {total}>", f"<{dot.lanes} x i32>"
    arguments = f"{sums} %s, {words} %x, {words} %w"
    # Arm's instructions take a lane of a register as their last factor alone.
    order = f"{factors} %b, {factors} %a" if dot.by_lane else f"{factors} %a, {factors} %b"
    return f"""
declare {sums} @{intrinsic}({sums}, {factors}, {factors})
define linkonce_odr {sums} @pocketformer_{dot.name}({arguments}) alwaysinline {{
  %a = bitcast {words} %x to {factors}
  %b = bitcast {words} %w to {factors}
  %r = call {sums} @{intrinsic}({sums} %s, {order})
  ret {sums} %r
}}
"""


def _scalar(vector: Expr) -> str:
    return str(vector.ty).partition("x")[0]
