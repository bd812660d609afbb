"""The factors of a product of two quantised activations, packed in words of four neighbours in k.

With a' and b' what the machine multiplies (numbers moved by 128 where it wants them so), and za',
zb' the zeros moved as much, the sums of (a' - za')(b' - zb') over k are
sum(a' b') - za' sum(b') - zb' (sum(a') - k za'): exact, a number for each column and each row.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_words import neighbours
from pocketformer.schedules.cpu.dot import SIGNS, Dot
from pocketformer.schedules.cpu.intrinsics import reduce_add_integers
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Tile,
    ceil_div,
    load,
    loop,
    registers,
    splat,
    store,
    transpose,
    when,
    workspace,
)
from pocketformer.schedules.cpu.math import constant

GROUP = 4                   # numbers of a word
ONES = 0x01010101           # a word of four ones


def less_of(b: Buffer) -> int:
    """How much less than b what is multiplied is: it has a sign."""
    return 128 if str(b.dtype) == "uint8" else 0


def ones_like(dot: Dot, a: Buffer) -> Expr:
    """A vector of words whose numbers are all 1, as those of a are packed."""
    kind = str(a.dtype)
    return dot.left(splat(tirx.const(1 - dot.offset(kind), kind), _step(dot)))


def _size(size: Expr) -> Expr:
    """A known size as a number."""
    return int(size) if isinstance(size, tirx.IntImm) else size


def _step(dot: Dot) -> int:
    """Numbers of a row of a that become a vector of words."""
    return dot.lanes * GROUP // dot.parts


class RightPanels:
    """b[batch, k, n] as `panels` [batch, panel, group of k, column], `width` columns each.

    `starts` are -za' sum(b') of every column.
    """

    def __init__(self, dot: Dot, b: Buffer, width: int) -> None:
        self.dot, self.b, self.width, self.less = dot, b, width, less_of(b)
        self.lanes, self.columns = dot.lanes, range(0, width, dot.lanes)
        batch, self.k, self.n = map(_size, b.shape)
        panels = ceil_div(self.n, width)
        self.panels = workspace(batch, panels, ceil_div(self.k, GROUP), width, dtype="int32")
        self.starts = workspace(batch, panels, width, dtype="int32")

    def pack(self, batch: Expr, panel: Expr, a_zero: Expr, ones: Expr) -> None:
        """A panel of b; columns past the end are the last one, and are never stored.

        `a_zero` and `ones` are za' and words of ones as the left factor has them.
        """
        first, columns = T.bind(panel * self.width), self.width
        whole = self.k // GROUP
        with T.If(first + columns <= self.n):
            with T.Then(), loop(whole) as group:
                for column in self.columns:
                    rows = [load(self.b, batch, group * GROUP + i, first + column, lanes=self.lanes)
                            for i in range(GROUP)]
                    words = tirx.reinterpret(f"int32x{self.lanes}", neighbours(rows))
                    words = words ^ constant(SIGNS, words) if self.less else words
                    store(self.panels, words, batch, panel, group, column)
            with T.Else(), loop(whole) as group:
                self._pack_singly(batch, panel, first, group)
        if not isinstance(self.k, int) or self.k % GROUP:
            with when(isinstance(self.k, int) or self.k % GROUP > 0):
                self._pack_singly(batch, panel, first, whole)
        self._start(batch, panel, a_zero, ones)

    def _pack_singly(self, batch: Expr, panel: Expr, first: Expr, group: Expr) -> None:
        """A group of k, number by number; those past the end of k become 0."""
        with loop(self.width) as column:
            at, word = tirx.min(first + column, self.n - 1), tirx.const(0, "int32")
            for i in range(GROUP):
                row = group * GROUP + i
                number = self.b[batch, tirx.min(row, self.k - 1), at].astype("int32")
                byte = tirx.Select(row < self.k, (number & 255) ^ self.less, 0)
                word = word | (byte << (8 * i))
            store(self.panels, word, batch, panel, group, column)

    def _start(self, batch: Expr, panel: Expr, a_zero: Expr, ones: Expr) -> None:
        """-za' sum(b') of every column."""
        sums = Tile(1, self.width, "int32")
        for column in self.columns:
            sums.store(splat(tirx.const(0, "int32"), self.lanes), 0, column)
        with loop(ceil_div(self.k, GROUP)) as group:
            for column in self.columns:
                words = load(self.panels, batch, panel, group, column, lanes=self.lanes)
                for part in self.dot.right(words):
                    before = sums.load(0, column, self.lanes)
                    sums.store(self.dot.add(before, ones, part), 0, column)
        for column in self.columns:
            start = sums.load(0, column, self.lanes) * splat(0 - a_zero, self.lanes)
            store(self.starts, start, batch, panel, column)


class LeftRows:
    """The `rows` rows of a tile of a[batch, m, k], [row, word]; [word, row] for a dot by lane.

    `starts` are -zb' (sum(a') - k za') of every row.
    """

    def __init__(self, dot: Dot, a: Buffer, rows: int) -> None:
        self.dot, self.a, self.rows, self.lanes, self.step = dot, a, rows, dot.lanes, _step(dot)
        _, self.m, self.k = map(_size, a.shape)
        self.height = dot.lanes if dot.by_lane else 1
        self.tall = ceil_div(rows, self.height) * self.height
        words = ceil_div(self.k, self.step) * dot.lanes
        shape = (words, self.tall) if dot.by_lane else (self.tall, words)
        self.held = workspace(*shape, dtype="int32")
        self.starts = registers(self.tall, dtype="int32")

    def pack(self, batch: Expr, row: Expr, a_zero: Expr, b_zero: Expr) -> None:
        """The rows from `row` on; those past the end are the last one."""
        kind = str(self.a.dtype)
        edge = registers(self.height, self.step, dtype=kind)
        for slot in range(self.height):     # zeros, once they are moved
            store(edge, splat(tirx.const(-self.dot.offset(kind), kind), self.step), slot, 0)
        with loop(self.tall // self.height) as group:
            rows = [T.bind(tirx.min(row + group * self.height + slot, self.m - 1))
                    for slot in range(self.height)]
            self._pack_group(batch, group, rows, edge, a_zero, b_zero)

    def _pack_group(
        self, batch: Expr, group: Expr, rows: list[Expr], edge: Buffer, a_zero: Expr, b_zero: Expr
    ) -> None:
        totals = Tile(self.height, self.lanes, "int32")
        zero = tirx.const(0, "int32")
        for slot in range(self.height):
            totals.store(splat(zero, self.lanes), slot, 0)
        ones = self.dot.right(splat(tirx.const(ONES, "int32"), self.lanes))[0]

        def put(step: Expr, numbers: list[Expr]) -> None:
            words = [T.bind(self.dot.left(each)) for each in numbers]
            for slot, vector in enumerate(words):
                before = totals.load(slot, 0, self.lanes)
                totals.store(self.dot.add(before, vector, ones), slot, 0)
            if not self.dot.by_lane:
                store(self.held, words[0], group, step * self.lanes)
                return
            for i, vector in enumerate(transpose(words)):
                store(self.held, vector, step * self.lanes + i, group * self.height)

        whole = self.k // self.step
        with loop(whole) as step:
            put(step, [load(self.a, batch, row, step * self.step, lanes=self.step)
                       for row in rows])
        if not isinstance(self.k, int) or self.k % self.step:
            with when(isinstance(self.k, int) or self.k % self.step > 0):
                with loop(self.k % self.step) as i:
                    for slot, row in enumerate(rows):
                        store(edge, self.a[batch, row, whole * self.step + i], slot, i)
                put(whole, [load(edge, slot, 0, lanes=self.step) for slot in range(self.height)])
        moved = T.bind(a_zero * tirx.Cast("int32", tirx.convert(self.k)))
        for slot in range(self.height):
            total = reduce_add_integers(totals.load(slot, 0, self.lanes))
            store(self.starts, (moved - total) * b_zero, group * self.height + slot)

    def factors(self, group: Expr) -> list[list[Expr]]:
        """Vectors [part][row] of the words of a group."""
        parts, rows = self.dot.parts, self.rows
        if not self.dot.by_lane:
            return [[splat(self.held[r, group * parts + part], self.lanes) for r in range(rows)]
                    for part in range(parts)]
        near = registers(parts, self.tall, dtype="int32")
        for part in range(parts):
            for r in range(0, self.tall, self.lanes):
                vector = load(self.held, group * parts + part, r, lanes=self.lanes)
                store(near, vector, part, r)
        return [[splat(near[part, r], self.lanes) for r in range(rows)] for part in range(parts)]
