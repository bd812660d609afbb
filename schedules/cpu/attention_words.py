"""Rows of numbers as vectors of words: padded where they end, interleaved, turned to columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_products import Products
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    lanes_of,
    load,
    loop,
    registers,
    splat,
    store,
    transpose,
)

Row = Callable[[Expr, int], Expr]     # so many of its numbers from a place on
Words = Callable[[Expr], Expr]        # of a vector of numbers


def padded(row: Row, at: Expr, lanes: int, size: int) -> Expr:
    """A vector of a row of `size` numbers from `at` on, zeros after the last one.

    `at` may be an expression only where the vector surely lies inside of the row.
    """
    if not isinstance(at, int) or at + lanes <= size:
        return T.bind(row(at, lanes))
    parts = [(d, row(at + d, width)) for d, width in vectors(size - at, lanes)]
    zero = tirx.const(0, str(parts[0][1].ty).partition("x")[0])
    edge = registers(lanes, dtype=str(zero.ty))
    store(edge, splat(zero, lanes), 0)
    for d, part in parts:
        store(edge, part, d)
    return T.bind(load(edge, 0, lanes=lanes))


def neighbours(rows: list[Expr]) -> Expr:
    """The first number of each of 1, 2 or 4 rows, the second of each, and so on."""
    if len(rows) == 1:
        return rows[0]
    first, second = (neighbours(rows[part::2]) for part in range(2))
    lanes = lanes_of(first)
    order = [i + lanes * part for i in range(lanes) for part in range(2)]
    return tirx.Shuffle([T.bind(first), T.bind(second)], order)


def vectors(size: int, lanes: int) -> list[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `size`: whole ones, then halves of halves."""
    found, start = [], 0
    while start < size:
        while start + lanes > size:
            lanes //= 2
        found.append((start, lanes))
        start += lanes
    return found


def row_words(dot: Products, words: Words, size: int, row: Row) -> list[tuple[int, Expr]]:
    """(first word, vector) of all words of a row of `size` numbers."""
    if dot.group == 1:
        return [(d, words(row(d, width))) for d, width in vectors(size, dot.lanes)]
    step = dot.lanes * dot.group
    return [(at // dot.group, words(padded(row, at, step, size))) for at in range(0, size, step)]


def turn(
    target: Buffer, column: int, dot: Products, words: Words, size: int,
    row: Callable[[int, Expr, int], Expr], *before: Expr,
) -> None:
    """target[..., word, column + i] = the words of row(i, d) for `lanes` rows of `size` numbers."""
    lanes, step = dot.lanes, dot.lanes * dot.group
    whole = size // step

    def put(at: Expr, number: Expr) -> None:
        square = [words(padded(partial(row, i), at, step, size)) for i in range(lanes)]
        for i, vector in enumerate(transpose(square)):
            store(target, vector, *before, number * lanes + i, column)

    with loop(whole) as number:
        put(number * step, number)
    if dot.group > 1 and size % step:
        put(whole * step, whole)
    elif dot.group == 1:
        for d in range(whole * step, size):
            for i in range(lanes):
                store(target, words(row(i, d, 1)), *before, d, column + i)
