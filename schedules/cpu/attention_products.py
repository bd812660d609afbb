"""How attention multiplies: float32, or pairs of bfloat16 or fours of int8 by an instruction.

Products are of words: one float32 number, or two bfloat16 or four int8 numbers that are neighbours
along the axis that is added up, with zeros where the last ones are missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, ClassVar

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_inputs import widened
from pocketformer.schedules.cpu.attention_softmax import exp2, exp2_short
from pocketformer.schedules.cpu.dot import Dot, Int8Dot
from pocketformer.schedules.cpu.dot_table import dots_of
from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import Expr, ceil_div, lanes_of, splat, typed
from pocketformer.schedules.cpu.math import constant

if TYPE_CHECKING:
    from pocketformer.targets import Target

# Where scores are not held as those of float32 are: a number of a key is broadcast from memory, one
# a cycle, and multiplied with two vectors of queries to keep up with products of twice the speed.
TILES = {"vdpbf16ps": (8, 32), "vpdpbusd": (8, 32)}
# The product of two unsigned numbers where `dot` takes signed ones.
UNSIGNED = {"sdot": ("udot", "llvm.aarch64.neon.udot.v4i32.v16i8")}
STEPS = 255                     # of the greatest weight, which are multiplied as uint8
_ONES = 0x01010101              # four bytes
_INTEGERS = 8388608.0           # 2^23: added to a number up to it, it leaves the nearest integer


class Products(ABC):
    """Scores are sums of queries times keys; results, of weights times values.

    Words of keys and weights are broadcast, or lanes of registers where `by_lane`. With `integers`,
    scores have to be scaled, and the greatest weight is `greatest` instead of 1.
    """

    lanes: int
    by_lane: bool

    group: ClassVar[int] = 1            # numbers of a word
    word: ClassVar[str] = "float32"     # dtype
    sums: ClassVar[str] = "float32"     # dtype
    integers: ClassVar[bool] = False
    greatest: ClassVar[float] = 1.0

    @property
    def llvm(self) -> str:
        """Functions in LLVM's language that a kernel has to import, or an empty string."""
        return ""

    def numbers(self, values: Expr) -> Expr:
        """A vector of an input as the functions below take it."""
        return widened(values)

    @abstractmethod
    def words(self, values: Expr) -> Expr:
        """Those of queries."""

    def keys(self, values: Expr) -> Expr:
        return self.words(values)

    def values(self, values: Expr) -> Expr:
        return self.words(values)

    @abstractmethod
    def score(self, sums: Expr, key: Expr, query: Expr) -> Expr:
        """`sums` and the products of two vectors of words."""

    def weigh(self, sums: Expr, weight: Expr, value: Expr) -> Expr:
        return self.score(sums, weight, value)

    def scores_less(self, queries: list[Expr]) -> Expr:
        """What sums for scores start from: the words of a vector of queries."""
        return splat(tirx.const(0, self.sums), self.lanes)

    def results_less(self, total: Expr) -> Expr:
        """What sums for results start from, whose weights add up to `total`."""
        return constant(0, total)

    def exponential(self, isa: Isa, score: Expr) -> Expr:
        """The weight of a score from which the greatest was subtracted."""
        return exp2(isa, score)

    @abstractmethod
    def weights(self, exponentials: list[Expr]) -> Expr:
        """The words of the exponentials of neighbouring keys."""

    def total(self, sums: Expr, exponentials: list[Expr], words: Expr) -> Expr:
        """`sums` and all weights of a vector of words."""
        return reduce(lambda a, b: a + b, exponentials, sums)


@dataclass(frozen=True)
class Float32Products(Products):
    """Multiply-add, which every instruction set has. Of int8 numbers, sums are exact up to 2^24."""

    lanes: int
    by_lane: bool

    def words(self, values: Expr) -> Expr:
        return values

    def score(self, sums: Expr, key: Expr, query: Expr) -> Expr:
        return sums + key * query

    def weights(self, exponentials: list[Expr]) -> Expr:
        return exponentials[0]


@dataclass(frozen=True)
class BFloat16Products(Products):
    dot: Dot

    group = 2
    word = "int32"

    @property
    def lanes(self) -> int:  # type: ignore[override]
        return self.dot.lanes

    @property
    def by_lane(self) -> bool:  # type: ignore[override]
        return self.dot.by_lane

    @property
    def llvm(self) -> str:
        return self.dot.llvm

    def numbers(self, values: Expr) -> Expr:
        return values

    def words(self, values: Expr) -> Expr:
        if str(values.ty).startswith("float32"):
            return self.dot.left(values)
        return _as_words(values, self.group)

    def score(self, sums: Expr, key: Expr, query: Expr) -> Expr:
        return self.dot.add(sums, key, query)

    def weights(self, exponentials: list[Expr]) -> Expr:
        """To round them, half of the last place that stays is added to their pattern."""
        dtype = f"int32x{self.lanes}"
        first, second = (tirx.reinterpret(dtype, weight) for weight in exponentials)
        half, sixteen = constant(1 << 15, first), constant(16, first)
        return ((second + half) & constant(-1 << 16, first)) | ((first + half) >> sixteen)


@dataclass(frozen=True)
class Int8Products(Products):
    """Weights are rounded to uint8. One factor of an instruction is uint8, or none is.

    Where the first is, keys are greater by 128, which adds 128 times the sum of each query to its
    scores; else values are and are multiplied by another instruction, which adds 128 times the sum
    of the weights to each result. Sums start from as much less, so both are exact.
    """

    dot: Int8Dot

    group = 4
    word = sums = "int32"
    integers = True
    greatest = float(STEPS)

    @property
    def lanes(self) -> int:  # type: ignore[override]
        return self.dot.lanes

    @property
    def by_lane(self) -> bool:  # type: ignore[override]
        return self.dot.by_lane

    @property
    def weigher(self) -> Int8Dot:
        """The instruction for weights and values."""
        if self.dot.unsigned:
            return self.dot
        name, intrinsic = UNSIGNED[self.dot.name]
        return Int8Dot(name, self.dot.arch, self.dot.needs, self.dot.group, self.dot.lanes,
                       self.dot.tiles, self.dot.panels, by_lane=self.dot.by_lane,
                       intrinsic=intrinsic, unsigned=True)

    @property
    def llvm(self) -> str:
        return "\n".join(dict.fromkeys([self.dot.llvm, self.weigher.llvm]))

    def numbers(self, values: Expr) -> Expr:
        return values

    def words(self, values: Expr) -> Expr:
        return _as_words(values, self.group)

    def keys(self, values: Expr) -> Expr:
        return self._greater(values) if self.dot.unsigned else self.words(values)

    def values(self, values: Expr) -> Expr:
        return self.words(values) if self.dot.unsigned else self._greater(values)

    def _greater(self, values: Expr) -> Expr:
        words = self.words(values)
        return words ^ constant(-0x7F7F7F80, words)

    def score(self, sums: Expr, key: Expr, query: Expr) -> Expr:
        return self.dot.add(sums, key, query)

    def weigh(self, sums: Expr, weight: Expr, value: Expr) -> Expr:
        return self.weigher.add(sums, weight, value)

    def scores_less(self, queries: list[Expr]) -> Expr:
        if not self.dot.unsigned:
            return super().scores_less(queries)
        zeros, ones = constant(0, queries[0]), constant(_ONES, queries[0])
        total = reduce(lambda sums, query: self.dot.add(sums, ones, query), queries, zeros)
        return zeros - (total << constant(7, total))

    def results_less(self, total: Expr) -> Expr:
        zeros = super().results_less(total)
        return zeros if self.dot.unsigned else zeros - (total << constant(7, total))

    def exponential(self, isa: Isa, score: Expr) -> Expr:
        return exp2_short(isa, score, self.greatest)

    def weights(self, exponentials: list[Expr]) -> Expr:
        dtype = f"int32x{self.lanes}"
        word, *others = (tirx.reinterpret(dtype, weight + constant(_INTEGERS, weight))
                         for weight in exponentials)
        for i, other in enumerate(others, start=1):
            word = self._inserted(word, other, 8 * i)
        return word

    def _inserted(self, low: Expr, high: Expr, at: int) -> Expr:
        """The first `at` bits of `low` below those of `high`."""
        if self.dot.arch == "aarch64":
            return tirx.call_llvm_pure_intrin(
                str(low.ty), "llvm.aarch64.neon.vsli", low, high, T.int32(at))
        return (low & constant((1 << at) - 1, low)) | (high << constant(at, high))

    def total(self, sums: Expr, exponentials: list[Expr], words: Expr) -> Expr:
        """Of the rounded weights, lest rounding shifts what all values have in common."""
        return self.weigher.add(sums, words, constant(_ONES, words))


def in_float32(isa: Isa) -> Float32Products:
    return Float32Products(isa.lanes, isa.by_lane)


def products_of(dot: Dot) -> Products:
    """Those of an instruction that `instruction_of` chose."""
    return Int8Products(dot) if isinstance(dot, Int8Dot) else BFloat16Products(dot)


def instruction_of(target: Target, dtype: str) -> Dot | None:
    """The instruction of `target` that adds products of words to the lanes of a vector.

    None for float32, and where it has none: widened numbers would save nothing over float32.
    """
    return next((dot for dot in dots_of(target, dtype) if dot.llvm and not dot.matrix), None)


def tile_of(isa: Isa, dot: Dot | None) -> tuple[int, int]:
    """(keys, queries) whose scores are held in registers."""
    return TILES.get(dot.name, isa.attention_tile) if dot else isa.attention_tile


def padded_columns(dot: Products, size: int) -> int:
    """The numbers of a row of words; those of several numbers are made by whole vectors."""
    return size if dot.group == 1 else ceil_div(size, dot.lanes) * dot.lanes


def padded_words(dot: Products, size: int) -> int:
    """The words that hold a row of `size` numbers."""
    return padded_columns(dot, ceil_div(size, dot.group))


def _as_words(values: Expr, group: int) -> Expr:
    return tirx.reinterpret(typed("int32", lanes_of(values) // group), values)

