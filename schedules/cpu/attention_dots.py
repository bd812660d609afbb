"""Products of attention by the machine's own instruction: pairs of bfloat16, or fours of int8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_products import Products
from pocketformer.schedules.cpu.attention_softmax import exp2_short
from pocketformer.schedules.cpu.dot import SIGNS, Dot, Int8Dot
from pocketformer.schedules.cpu.dot_table import dots_of
from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import Expr, lanes_of, typed
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
    def pieces(self) -> int:  # type: ignore[override]
        return 2 if self.dot.arch == "aarch64" else 1

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
        return words ^ constant(SIGNS, words)

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


def _as_words(values: Expr, group: int) -> Expr:
    return tirx.reinterpret(typed("int32", lanes_of(values) // group), values)

