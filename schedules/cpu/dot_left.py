"""The left factor of a product of short numbers: rows of x, rounded and packed into words.

Where x has such words already, and the machine takes them from anywhere in memory, they are read
where they lie. Else rows are packed, as many at a time as a cache holds. How words then lie depends
on how the machine takes them: one row after the other where it broadcasts from memory, the same
word of all rows of a tile beside each other where it multiplies by a lane of a register, two rows
at a time by matrices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    ceil_div,
    load,
    loop,
    parallel_loop,
    registers,
    splat,
    store,
    transpose,
    workspace,
)
from pocketformer.schedules.cpu.row_range import RowRange
from pocketformer.schedules.cpu.tiles import Tiles, block_rows


def left_of(dot: Dot, x: Buffer, rows: int) -> Left:
    """How `dot` takes x[m, k] in tiles of `rows` rows."""
    if dot.matrix:
        return _Matrices(dot, x, rows)
    if dot.by_lane:
        return _Lanes(dot, x, rows)
    return (_Stored if _Stored.fits(dot, x) else _Rows)(dot, x, rows)


class Left(ABC):
    """A block of rows of x in words, and how a tile reads them.

    Of float32 numbers for products of integers, `range` has the scale and the zero of each row.
    """

    height = 1      # rows that are packed together

    def __init__(self, dot: Dot, x: Buffer, rows: int) -> None:
        self.dot, self.x, self.rows = dot, x, rows
        self.m, self.k = x.shape[0], int(x.shape[1])
        self.dtype = str(x.dtype)
        if self.dtype == "bfloat16":
            self.x, self.dtype = _as_words(x, "uint16"), "uint16"
        self.step = dot.lanes * dot.values      # numbers of a row that become a vector of words
        self.steps = ceil_div(self.k, self.step)
        self.per_group = dot.group // dot.values
        self.tall = ceil_div(rows, self.height) * self.height
        self.tiles = ceil_div(block_rows(self.m, rows), rows)
        self.range: RowRange | None = None
        if (self.dtype, dot.dtype) == ("float32", "int8"):
            self.range = RowRange(dot, self.x, self.tiles * rows)
        self.packed = self._workspace(self.steps * dot.lanes)

    def pack(self, tiles: Tiles, first: Expr, count: Expr) -> None:
        """Pack the `count` rows from row `first` on, tile by tile."""
        with parallel_loop(ceil_div(count, self.rows), tiles.shared) as tile:
            row, rows = tiles.place(count, tile)
            edge = registers(self.height, self.step, dtype=self.dtype)
            if self.k % self.step:
                for slot in range(self.height):
                    store(edge, splat(tirx.const(0, self.dtype), self.step), slot, 0)
            with loop(ceil_div(rows, self.height)) as group:
                places = [T.bind(row + tirx.min(group * self.height + slot, rows - 1))
                          for slot in range(self.height)]
                self._pack_rows(tile, row, group, first, places, edge)

    def _pack_rows(
        self, tile: Expr, row: Expr, group: Expr, first: Expr, places: list[Expr], edge: Buffer
    ) -> None:
        """A group of rows of a tile, at `places` of the block; the tile begins at `row` of it."""
        rows = [T.bind(first + place) for place in places]
        words = [self._words_of(x_row, place) for x_row, place in zip(rows, places, strict=True)]
        with loop(self.k // self.step) as step:
            self._put(tile, row, group, step, [
                make(T.bind(load(self.x, each, step * self.step, lanes=self.step)))
                for each, make in zip(rows, words, strict=True)])
        if self.k % self.step == 0:
            return
        done = self.k // self.step * self.step      # the numbers left get zeros behind them
        with loop(self.k % self.step) as i:
            for slot, each in enumerate(rows):
                store(edge, self.x[each, done + i], slot, i)
        self._put(tile, row, group, self.k // self.step, [
            make(T.bind(load(edge, slot, 0, lanes=self.step)))
            for slot, make in enumerate(words)])

    def _words_of(self, x_row: Expr, row: Expr) -> Callable[[Expr], Expr]:
        """What makes words of the numbers of row `x_row` of x, the block's `row`."""
        if self.dtype == "uint16":
            return self.dot.stored
        if self.range is None:
            return self.dot.left
        rounded = self.range.measure(x_row, row)
        return lambda numbers: self.dot.left(rounded(numbers))

    @abstractmethod
    def _workspace(self, words: int) -> Buffer:
        """Memory for a block of rows of so many words."""

    @abstractmethod
    def _put(self, tile: Expr, row: Expr, group: Expr, step: Expr, words: list[Expr]) -> None:
        """Store a vector of words of each of `height` rows, the `group`th of a tile."""

    @abstractmethod
    def read(
        self, tile: Expr, row: Expr, rows: int, at: Expr, steps: int
    ) -> list[list[list[Expr]]]:
        """Vectors [step][part][row, or pair of rows] of `steps` steps of k from `at` on, each what
        an instruction takes."""


class _Rows(Left):
    """[row, word]."""

    def _workspace(self, words: int) -> Buffer:
        return workspace(self.tiles * self.rows, words, dtype=self.dot.word)

    def _put(self, tile: Expr, row: Expr, group: Expr, step: Expr, words: list[Expr]) -> None:
        store(self.packed, words[0], row + group, step * self.dot.lanes)

    def read(
        self, tile: Expr, row: Expr, rows: int, at: Expr, steps: int
    ) -> list[list[list[Expr]]]:
        def word(step: int, part: int, r: int) -> Expr:
            number = self.packed[row + r, (at + step) * self.per_group + part]
            return splat(number, self.dot.lanes)

        return [[[word(step, part, r) for r in range(rows)] for part in range(self.dot.parts)]
                for step in range(steps)]


class _Stored(Left):
    """Where x lies, as words."""

    @staticmethod
    def fits(dot: Dot, x: Buffer) -> bool:
        """Whether x has the words that `dot` takes."""
        dtype = str(x.dtype)
        short = dtype == dot.dtype == "bfloat16" or dtype in ("int8", "uint8")
        return bool(dot.llvm) and short and not dot.offset(dtype) and int(
            x.shape[1]) % dot.group == 0

    def _workspace(self, words: int) -> Buffer:
        return _as_words(self.x, "int32", int(self.x.shape[1]) // self.dot.group)

    def pack(self, tiles: Tiles, first: Expr, count: Expr) -> None:
        self.first = first

    def _put(self, tile: Expr, row: Expr, group: Expr, step: Expr, words: list[Expr]) -> None:
        raise AssertionError("nothing is packed")

    def read(
        self, tile: Expr, row: Expr, rows: int, at: Expr, steps: int
    ) -> list[list[list[Expr]]]:
        return [[[splat(self.packed[self.first + row + r, at + step], self.dot.lanes)
                  for r in range(rows)]] for step in range(steps)]


class _Lanes(Left):
    """[tile, word, row of the tile]."""

    @property
    def height(self) -> int:    # type: ignore[override]
        return self.dot.lanes

    def _workspace(self, words: int) -> Buffer:
        return workspace(self.tiles, words, self.tall, dtype=self.dot.word)

    def _put(self, tile: Expr, row: Expr, group: Expr, step: Expr, words: list[Expr]) -> None:
        lanes = self.dot.lanes
        for i, vector in enumerate(transpose(words)):
            store(self.packed, vector, tile, step * lanes + i, group * lanes)

    def read(
        self, tile: Expr, row: Expr, rows: int, at: Expr, steps: int
    ) -> list[list[list[Expr]]]:
        lanes, parts = self.dot.lanes, self.dot.parts
        padded = ceil_div(rows, lanes) * lanes
        held = registers(steps * parts, padded, dtype=self.dot.word)
        for word in range(steps * parts):
            for r in range(0, padded, lanes):
                vector = load(self.packed, tile, at * parts + word, r, lanes=lanes)
                store(held, vector, word, r)
        return [[[splat(held[step * parts + part, r], lanes) for r in range(rows)]
                 for part in range(parts)] for step in range(steps)]


class _Matrices(Left):
    """[tile, pair of words, pair of rows, row of the pair, word of the pair]."""

    height = 2

    def _workspace(self, words: int) -> Buffer:
        return workspace(self.tiles, words // 2, self.tall * 2, dtype=self.dot.word)

    def _put(self, tile: Expr, row: Expr, group: Expr, step: Expr, words: list[Expr]) -> None:
        for i in range(2):
            order = [2 * i, 2 * i + 1, 4 + 2 * i, 5 + 2 * i]
            vector = tirx.Shuffle(words, order)
            store(self.packed, vector, tile, step * 2 + i, group * 4)

    def read(
        self, tile: Expr, row: Expr, rows: int, at: Expr, steps: int
    ) -> list[list[list[Expr]]]:
        return [[[load(self.packed, tile, at + step, pair * 4, lanes=4)
                  for pair in range(ceil_div(rows, 2))]] for step in range(steps)]


def _as_words(x: Buffer, dtype: str, words: int | None = None) -> Buffer:
    """The memory of x[m, k] as numbers of another dtype, so many to the row."""
    start = T.bind(T.address_of(x[0, 0]))    # x may begin anywhere in its memory
    return T.decl_buffer((x.shape[0], words or x.shape[1]), dtype, data=start)
