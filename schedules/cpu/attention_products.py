"""How attention multiplies: float32, or pairs of bfloat16 or fours of int8 by an instruction.

Products are of words: one float32 number, or two bfloat16 or four int8 numbers that are neighbours
along the axis that is added up, with zeros where the last ones are missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

from tvm import tirx

from pocketformer.schedules.cpu.attention_inputs import widened
from pocketformer.schedules.cpu.attention_softmax import exp2
from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import Expr, ceil_div, splat
from pocketformer.schedules.cpu.math import constant


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
    pieces: int = 1                     # vectors of a result that are best written at a time
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


def in_float32(isa: Isa) -> Float32Products:
    return Float32Products(isa.lanes, isa.by_lane)


def padded_columns(dot: Products, size: int) -> int:
    """The numbers of a row of words; those of several numbers are made by whole vectors."""
    return size if dot.group == 1 else ceil_div(size, dot.lanes) * dot.lanes


def padded_words(dot: Products, size: int) -> int:
    """The words that hold a row of `size` numbers."""
    return padded_columns(dot, ceil_div(size, dot.group))
