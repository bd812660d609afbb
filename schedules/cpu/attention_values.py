"""The weighted sum of values: a few rows of weights times all values of a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pocketformer.schedules.cpu.attention_products import Products
from pocketformer.schedules.cpu.kernel import Expr, Tile, loop, splat

STEPS = 8       # at a time where a load brings several numbers: loads in pairs, few jumps

# The weights of all rows for some words of keys, and a vector of the words of their values.
Weights = Callable[[Expr, int], list[list[Expr]]]
Values = Callable[[Expr, Expr, int], Expr]


@dataclass(frozen=True)
class Sums:
    """`rows` x `columns` of a result, which stay in registers while keys go by.

    They begin as `start`(row, column, lanes) and end in `finish`(sum, row, column).
    """

    dot: Products
    rows: int
    columns: int
    start: Callable[[int, Expr, int], Expr]
    finish: Callable[[Expr, int, Expr], None]

    def weigh(self, size: int, count: Expr, weights: Weights, values: Values) -> None:
        """Add the weights of `count` words of keys @ their values of `size` numbers."""
        for first, width, vectors, groups in _groups(size, self.dot.lanes, self.columns):
            with loop(groups) as group:
                column = first + group * vectors * width
                self._weigh(column, width, vectors, count, weights, values)

    def _weigh(
        self, first: Expr, width: int, vectors: int, count: Expr, weights: Weights, values: Values
    ) -> None:
        sums = Tile(self.rows, vectors * width, self.dot.sums)
        for r in range(self.rows):
            for v in range(vectors):
                sums.store(self.start(r, first + v * width, width), r, v * width)

        def add(word: Expr, steps: int) -> None:
            for u, numbers in enumerate(weights(word, steps)):
                for r, number in enumerate(numbers):
                    for v in range(vectors):
                        value = values(word + u, first + v * width, width)
                        before = sums.load(r, v * width, width)
                        sums.store(
                            self.dot.weigh(before, splat(number, width), value), r, v * width)

        steps = STEPS if self.dot.by_lane else 1
        with loop(count // steps) as step:
            add(step * steps, steps)
        if steps > 1:
            with loop(count % steps) as rest:
                add(count // steps * steps + rest, 1)
        step = self.dot.pieces if vectors % self.dot.pieces == 0 else 1
        for r in range(self.rows):
            for v in range(0, vectors, step):
                self.finish(sums.load(r, v * width, step * width), r, first + v * width)


def each_vector(
    size: int, lanes: int, rows: int, visit: Callable[[Expr, Expr, int], None]
) -> None:
    """`visit(row, column, lanes)` for all of [rows, size]."""
    with loop(rows) as r:
        for start, width, count in _vectors(size, lanes):
            with loop(count) as i:
                visit(r, start + i * width, width)


def _vectors(size: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """(start, lanes, count) of the vectors that cover `size`: whole ones, then halves of halves."""
    start = 0
    while start < size:
        if count := (size - start) // lanes:
            yield start, lanes, count
        start += count * lanes
        lanes //= 2


def _groups(size: int, lanes: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, lanes, vectors, count) of the groups of columns, each at most `columns` wide."""
    most = columns // lanes
    for start, width, count in _vectors(size, lanes):
        if count >= most:
            yield start, width, most, count // most
        if count % most:
            yield start + count // most * most * width, width, count % most, 1
