"""Rows of x as whole numbers, a group at a time: what a word of int8 weights is multiplied by.

A number is one digit of -127..127, or three to the base 256, which hold what float32 can tell apart
next to the largest of its group.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.dot import Dot, Int8Dot
from pocketformer.schedules.cpu.intrinsics import reduce_add_integers, reduce_max_integers
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    ceil_div,
    load,
    loop,
    registers,
    splat,
    store,
    workspace,
)
from pocketformer.schedules.cpu.math import INFINITY, MAGNITUDE, ROUND, ROUND_BITS
from pocketformer.schedules.workloads import WeightOnlyLinear

LANES = 8                   # numbers that are taken at a time: two words
LARGEST = {1: 127, 3: (1 << 22) - 1}     # by digits: what the largest number becomes
TINY = 1e-30                # where nothing is larger, all are taken for zeros
_INTEGERS = f"int32x{LANES}"


class WholeX:
    """`words[row, digit, word]`, and for each row and group `scale` and, by digit, `sums`.

    What they stand for is scale * (digit 0 + 256 * digit 1 + 65536 * digit 2). `sums` are the sums
    of the group's digits times `factor`.
    """

    def __init__(
        self, x: Buffer, work: WeightOnlyLinear, dot: Dot, digits: int, factor: int, block: int
    ) -> None:
        self.x, self.dot, self.digits, self.factor = x, dot, digits, factor
        self.groups, self.group = work.groups, work.k // work.groups
        words = ceil_div(work.k, LANES) * (LANES // 4) * dot.parts
        self.words = workspace(block, digits, words, dtype=dot.word)
        self.scale = workspace(block, work.groups)
        self.sums = workspace(block, work.groups, digits, dtype="int32")

    def prepare(self, first: Expr, count: Expr) -> None:
        """Make them of `count` rows of x from row `first` on."""
        most = LARGEST[self.digits]
        with loop(count) as row, loop(self.groups) as group:
            largest, *sums = (registers(LANES, dtype="int32") for _ in range(1 + self.digits))
            for each in (largest, *sums):
                store(each, tirx.const(0, _INTEGERS), 0)
            self._visit(first + row, group, lambda at, x: _measure(x, largest))
            bits = T.bind(reduce_max_integers(load(largest, 0, lanes=LANES)))
            size = T.bind(tirx.reinterpret("float32", bits))
            # A NaN or an infinity makes the scale a NaN, and so all that it scales.
            store(self.scale, tirx.Select(
                bits < INFINITY, size * T.float32(1.0 / most), T.float32(float("nan"))), row, group)
            factor = T.bind(tirx.Select(
                size > T.float32(TINY), T.float32(float(most)) / size, T.float32(0.0)))
            self._visit(first + row, group, lambda at, x: self._put(row, at, x, factor, sums))
            for digit, each in enumerate(sums):
                total = reduce_add_integers(load(each, 0, lanes=LANES))
                store(self.sums, total * self.factor, row, group, digit)

    def _visit(self, row: Expr, group: Expr, visit: Callable[[Expr, Expr], None]) -> None:
        """`visit(place, numbers)` for all of a group; zeros stand after the last."""
        whole = self.group // LANES * LANES
        with loop(whole // LANES) as step:
            at = group * self.group + step * LANES
            visit(at, T.bind(load(self.x, row, at, lanes=LANES)))
        if whole < self.group:
            last = registers(LANES)
            for i in range(LANES):
                at = whole + i
                store(last, self.x[row, at] if at < self.group else T.float32(0.0), i)
            visit(whole, T.bind(load(last, 0, lanes=LANES)))

    def _put(self, row: Expr, at: Expr, x: Expr, factor: Expr, sums: list[Buffer]) -> None:
        near = x * splat(factor, LANES) + splat(ROUND, LANES)
        rest = T.bind(tirx.reinterpret(_INTEGERS, near) - tirx.const(ROUND_BITS, _INTEGERS))
        for digit, total in enumerate(sums):
            number = rest
            if digit < self.digits - 1:    # the low byte, as a number of -128..127
                high = tirx.const(24, _INTEGERS)
                number = T.bind((rest << high) >> high)
                rest = T.bind((rest - number) >> tirx.const(8, _INTEGERS))
            store(total, load(total, 0, lanes=LANES) + number, 0)
            store(self.words, self._words(number.astype(f"int8x{LANES}")),
                  row, digit, at // 4 * self.dot.parts)

    def _words(self, numbers: Expr) -> Expr:
        # Where the machine wants one factor positive, the weights are made so.
        if isinstance(self.dot, Int8Dot):
            return tirx.reinterpret(f"int32x{LANES // 4}", numbers)
        return self.dot.left(numbers)


def _measure(x: Expr, largest: Buffer) -> None:
    """Magnitudes are compared by their bits, in which a NaN is the greatest."""
    magnitude = tirx.reinterpret(_INTEGERS, x) & tirx.const(MAGNITUDE, _INTEGERS)
    store(largest, tirx.max(load(largest, 0, lanes=LANES), magnitude), 0)
