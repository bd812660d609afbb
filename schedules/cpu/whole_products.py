"""Rows of x as whole numbers times small weights: the machine's sums of four int8 products."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.dot import SIGNS, Dot, Int8Dot
from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import (
    Expr,
    Tile,
    ceil_div,
    load,
    loop,
    registers,
    splat,
    store,
)
from pocketformer.schedules.cpu.weight_formats import OFFSET
from pocketformer.schedules.cpu.weight_products import (
    MOST_ROWS,
    WAYS,
    Arguments,
    Products,
    Strip,
    zeros,
)
from pocketformer.schedules.cpu.whole_x import LARGEST, WholeX
from pocketformer.schedules.workloads import WeightOnlyLinear


class WholeProducts(Products):
    """One digit for a rounded x, else three, which lose nothing to speak of.

    Weights that lie offset by z, or are made positive by adding it, are not corrected: sums begin
    at -z times the sum of x over the group.
    """

    def __init__(
        self, isa: Isa, work: WeightOnlyLinear, columns: int, panel: int, dot: Dot
    ) -> None:
        super().__init__(isa, work, columns, panel)
        self.dot = dot
        self.imports += dot.llvm
        self.digits = 1 if work.round_x else 3
        self.positive = isinstance(dot, Int8Dot) and dot.unsigned
        self.offset = OFFSET if work.bits == 4 else 128 * self.positive
        self.per_word = 8 // work.bits              # fours of x, for a word of weights
        self.steps = ceil_div(work.k // work.groups, 4 * self.per_word)
        fours = 1 if self.rows > 1 or self.digits > 1 else WAYS
        if isa.by_lane:      # words of x come in vectors
            fours = 4 // dot.parts
        self.unroll = max(1, fours // self.per_word)
        largest = LARGEST[self.digits] << (work.bits - 1)      # of products
        self.exact = largest * (work.k // work.groups) < 1 << 31    # their sum fits in int32

    @property
    def rows(self) -> int:
        sums = len(self.at) * self.digits
        return max(1, min(MOST_ROWS, self.isa.registers * 5 // 8 // sums))

    def begin(self, arguments: Arguments, block: int) -> None:
        self.scale = arguments.scale
        panels, _, panel, *_ = arguments.weight.shape
        shape = (panels, self.steps * self.work.groups, panel)
        self.weight = T.decl_buffer(shape, "int32", data=arguments.weight.data)
        self.x = WholeX(arguments.x, self.work, self.dot, self.digits, -self.offset, block)

    def prepare(self, first: Expr, count: Expr) -> None:
        self.x.prepare(first, count)

    def add(self, total: Tile, strip: Strip, row: Expr, rows: int) -> None:
        ways = WAYS if rows == 1 and self.digits == 1 else 1
        with loop(self.work.groups) as group:
            sums = [[zeros(rows, self.columns, self.isa.lanes, self.dot.sums)
                     for _ in range(ways)] for _ in range(self.digits)]
            for digit, (first, *_) in enumerate(sums):
                for r in range(rows):
                    start = T.broadcast(self.x.sums[row + r, group, digit], self.isa.lanes)
                    for column in self.at:
                        first.store(start, r, column)
            at = group * self.steps
            with loop(self.steps // self.unroll) as step:
                self._step(sums, strip, at + step * self.unroll, self.unroll, row, rows)
            if rest := self.steps % self.unroll:
                self._step(sums, strip, at + (self.steps - rest), rest, row, rows)
            self._scale(total, sums, strip, group, row, rows)

    def _step(
        self, sums: list[list[Tile]], strip: Strip, at: Expr, count: int, row: Expr, rows: int
    ) -> None:
        """`count` words of weights of every column, from word `at` on."""
        parts, lanes, fours = self.dot.parts, self.isa.lanes, count * self.per_word
        words = [self._words(row, digit, rows, at * (self.per_word * parts), fours * parts)
                 for digit in range(self.digits)]
        for step in range(count):
            self.ask(self.weight, strip, at + step)
        for column in self.at:
            weights = [each for step in range(count) for each in self._fours(T.bind(
                strip.load(self.weight, at + step, column, lanes)))]
            for four, word in enumerate(weights):
                for part, factors in enumerate(self.dot.right(word)):
                    bound = T.bind(factors)
                    for digit, ways in enumerate(sums):
                        for r in range(rows):
                            x = splat(words[digit][r][four * parts + part], lanes)
                            self._add(ways[four % len(ways)], r, column, bound, x)

    def _add(self, sums: Tile, r: int, column: int, weights: Expr, x: Expr) -> None:
        before = sums.load(r, column, self.isa.lanes)
        left, right = (weights, x) if self.positive else (x, weights)
        sums.store(self.dot.add(before, left, right), r, column)

    def _fours(self, words: Expr) -> list[Expr]:
        """Words of four int8 numbers each, which are positive where the machine wants that."""
        dtype = str(words.ty)
        if self.work.bits == 8:
            return [words ^ tirx.const(SIGNS, dtype) if self.positive else words]
        octets = f"uint8x{4 * self.isa.lanes}"
        halves = tirx.reinterpret(octets, words)
        return [T.bind(tirx.reinterpret(dtype, half)) for half in (
            halves & tirx.const(15, octets), halves >> tirx.const(4, octets))]

    def _words(
        self, row: Expr, digit: int, rows: int, at: Expr, count: int
    ) -> list[list[Expr]]:
        """`count` words of x of each row."""
        words = self.x.words
        if not self.isa.by_lane:
            return [[words[row + r, digit, at + i] for i in range(count)] for r in range(rows)]
        held = registers(rows, count, dtype=self.dot.word)
        for r in range(rows):
            done = 0
            while done < count:
                lanes = 4 if count - done >= 4 else 1
                store(held, load(words, row + r, digit, at + done, lanes=lanes), r, done)
                done += lanes
        return [[held[r, i] for i in range(count)] for r in range(rows)]

    def _scale(
        self, total: Tile, sums: list[list[Tile]], strip: Strip, group: Expr, row: Expr, rows: int
    ) -> None:
        """Add the sums of a group, as many times the scales of its weights and of x."""
        lanes = self.isa.lanes
        for column in self.at:
            scale = T.bind(strip.load(self.scale, group, column, lanes))
            for r in range(rows):
                value, *rest = (self._sum(ways, r, column) for ways in reversed(sums))
                for digit in rest:     # each counts less than the one before
                    value = value * tirx.const(256, digit.ty) + digit
                value = value.astype(f"float32x{lanes}")
                x_scale = splat(self.x.scale[row + r, group], lanes)
                total.add(value * (scale * x_scale), r, column)

    def _sum(self, ways: list[Tile], r: int, column: int) -> Expr:
        """Of one digit's products; where all digits together fit, in int32."""
        parts = [way.load(r, column, self.isa.lanes) for way in ways]
        total = sum(parts[1:], parts[0])
        return total if self.exact else total.astype(f"float32x{self.isa.lanes}")
