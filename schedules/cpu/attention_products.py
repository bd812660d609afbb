"""How attention multiplies: numbers in float32, or pairs of bfloat16 by the machine's instruction.

Either way products are of words: one float32 number, or two bfloat16 numbers that are neighbours
along the axis that is added up, with a zero where the second one is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.dot_table import dots_of
from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import (
    Expr,
    ceil_div,
    lanes_of,
    load,
    registers,
    splat,
    store,
)
from pocketformer.schedules.cpu.math import constant

if TYPE_CHECKING:
    from pocketformer.targets import Target

# Where scores are not held as those of float32 are: a number of a key is broadcast from memory, one
# a cycle, and multiplied with two vectors of queries to keep up with products of twice the speed.
TILES = {"vdpbf16ps": (8, 32)}

Row = Callable[[Expr, int], Expr]     # so many of its numbers from a place on


@dataclass(frozen=True)
class Float32Products:
    """Multiply-add, which every instruction set has, with the interface of a Dot."""

    lanes: int
    by_lane: bool

    group: ClassVar[int] = 1
    word: ClassVar[str] = "float32"
    llvm: ClassVar[str] = ""

    def left(self, values: Expr) -> Expr:
        return values

    def add(self, sums: Expr, left: Expr, right: Expr) -> Expr:
        return sums + left * right


Products = Dot | Float32Products


def in_float32(isa: Isa) -> Float32Products:
    return Float32Products(isa.lanes, isa.by_lane)


def instruction_of(target: Target, dtype: str) -> Dot | None:
    """The instruction of `target` that adds products of pairs to the lanes of a vector.

    None for float32, and where it has none: widened numbers would save nothing over float32.
    """
    return next((dot for dot in dots_of(target, dtype) if dot.llvm and not dot.matrix), None)


def tile_of(isa: Isa, dot: Dot | None) -> tuple[int, int]:
    """(keys, queries) whose scores are held in registers."""
    return TILES.get(dot.name, isa.attention_tile) if dot else isa.attention_tile


def padded_columns(dot: Products, size: int) -> int:
    """The numbers of a row of words; those of pairs are made by whole vectors."""
    return size if dot.group == 1 else ceil_div(size, dot.lanes) * dot.lanes


def padded_words(dot: Products, size: int) -> int:
    """The words that hold a row of `size` numbers."""
    return padded_columns(dot, ceil_div(size, dot.group))


def weight_words(dot: Products, weights: list[Expr]) -> Expr:
    """The words of the weights of neighbouring keys, which are no less than 0.

    To round those to bfloat16, half of the last place that stays is added to their pattern.
    """
    if dot.group == 1:
        return weights[0]
    dtype = f"int32x{dot.lanes}"
    first, second = (tirx.reinterpret(dtype, weight) for weight in weights)
    half, sixteen = constant(1 << 15, first), constant(16, first)
    return ((second + half) & constant(-1 << 16, first)) | ((first + half) >> sixteen)


def padded(row: Row, at: Expr, lanes: int, size: int) -> Expr:
    """A vector of a row of `size` numbers from `at` on, zeros after the last one.

    `at` may be an expression only where the vector surely lies inside of the row.
    """
    if not isinstance(at, int) or at + lanes <= size:
        return T.bind(row(at, lanes))
    edge = registers(lanes)
    store(edge, splat(0.0, lanes), 0)
    for d, width in vectors(size - at, lanes):
        store(edge, row(at + d, width), d)
    return T.bind(load(edge, 0, lanes=lanes))


def neighbours(rows: list[Expr]) -> Expr:
    """The first number of each row, the second of each, and so on."""
    if len(rows) == 1:
        return rows[0]
    lanes = lanes_of(rows[0])
    order = [i + lanes * part for i in range(lanes) for part in range(len(rows))]
    return tirx.Shuffle([T.bind(row) for row in rows], order)


def vectors(size: int, lanes: int) -> list[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `size`: whole ones, then halves of halves."""
    found, start = [], 0
    while start < size:
        while start + lanes > size:
            lanes //= 2
        found.append((start, lanes))
        start += lanes
    return found
