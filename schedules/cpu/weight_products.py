"""Rows of x times small weights in float32: weights become float32 in registers, and no sooner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.intrinsics import Isa, reduce_add
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Tile,
    load,
    loop,
    registers,
    splat,
    store,
    workspace,
)
from pocketformer.schedules.cpu.weight_formats import OFFSET, SHIFTS
from pocketformer.schedules.workloads import WeightOnlyLinear

MOST_ROWS = 4    # at a time: each number of them is code of its own
WAYS = 2     # sums a column, for one row: an addition takes four times as long as it occupies
AHEAD = 64   # rows of a panel from a load to what is asked for: 12 KiB, if it has 48 columns


@dataclass(frozen=True)
class Arguments:
    """What a kernel reads."""

    x: Buffer
    weight: Buffer
    scale: Buffer


@dataclass(frozen=True)
class Strip:
    """The columns of `panel` from its column `start` on."""

    panel: Expr
    start: Expr

    def load(self, buffer: Buffer, row: Expr, column: int, lanes: int) -> Expr:
        """Of a row of packed weights or scales, from the strip's `column` on."""
        return load(buffer, self.panel, row, self.start + column, lanes=lanes)


class Products(ABC):
    """Adds x @ weight to tiles of `columns` columns, of which a panel of weights has `panel`."""

    def __init__(self, isa: Isa, work: WeightOnlyLinear, columns: int, panel: int) -> None:
        self.isa, self.work, self.columns, self.panel = isa, work, columns, panel
        # Functions in LLVM's language that the kernel calls.
        self.imports = prefetch.LLVM if columns != panel else ""
        self.at = range(0, columns, isa.lanes)

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows the registers hold sums for."""

    @abstractmethod
    def begin(self, arguments: Arguments, block: int) -> None:
        """Take the kernel's arguments, and make room for what `prepare` makes of `block` rows."""

    @abstractmethod
    def prepare(self, first: Expr, count: Expr) -> None:
        """Bring `count` rows of x from row `first` into the form that `add` reads."""

    def ask(self, weight: Buffer, strip: Strip, at: Expr) -> None:
        """For what comes behind row `at` of a panel that is read in several strips: in whole rows,
        as memory is best read in order. The next strips find it in a cache."""
        if self.columns != self.panel:
            width = int(weight.shape[2])
            prefetch.prefetch(weight, strip.panel, at, 0, width, AHEAD)

    @abstractmethod
    def add(self, total: Tile, strip: Strip, row: Expr, rows: int) -> None:
        """Add to `total`, a tile of `strip`, the products of rows `row` to `row + rows` of those
        that are prepared."""


class Int8Products(Products):
    """Products of four neighbours of a column in four lanes, which are added up at the end."""

    @property
    def rows(self) -> int:
        return max(1, min(MOST_ROWS, self.isa.registers * 3 // 4 // (4 * len(self.at))))

    def begin(self, arguments: Arguments, block: int) -> None:
        self.x, self.scale = arguments.x, arguments.scale
        panels, steps, columns, four = arguments.weight.shape
        # The last two axes as one, so that a vector can have more than four numbers.
        self.weight = T.decl_buffer(
            (panels, steps, columns * four), "int8", data=arguments.weight.data)

    def prepare(self, first: Expr, count: Expr) -> None:
        self.first = first

    def add(self, total: Tile, strip: Strip, row: Expr, rows: int) -> None:
        lanes, k, row = self.isa.lanes, self.work.k, self.first + row
        sums = zeros(rows, 4 * self.columns, lanes)

        def step(at: Expr, fours: list[Expr]) -> None:
            self.ask(self.weight, strip, at)
            factors = [T.bind(_repeated(four, lanes)) for four in fours]
            for column in range(0, 4 * self.columns, lanes):
                weights = load(
                    self.weight, strip.panel, at, 4 * strip.start + column, lanes=lanes)
                wide = T.bind(weights.astype(f"float32x{lanes}"))
                for r, factor in enumerate(factors):
                    sums.add(factor * wide, r, column)

        with loop(k // 4) as at:
            step(at, [load(self.x, row + r, 4 * at, lanes=4) for r in range(rows)])
        if k % 4:
            step(k // 4, self._last(row, rows))
        for column in self.at:
            scale = T.bind(strip.load(self.scale, 0, column, lanes))
            for r in range(rows):
                parts = [sums.load(r, 4 * column + i * lanes, lanes) for i in range(4)]
                sum_of_four = _pairs(_pairs(*parts[:2]), _pairs(*parts[2:]))
                total.add(sum_of_four * scale, r, column)

    def _last(self, row: Expr, rows: int) -> list[Expr]:
        """The numbers of x after the last whole four, and zeros."""
        held, k = registers(rows, 4), self.work.k
        for r in range(rows):
            for i in range(4):
                at = k // 4 * 4 + i
                store(held, self.x[row + r, at] if at < k else T.float32(0.0), r, i)
        return [load(held, r, 0, lanes=4) for r in range(rows)]


class Int4Products(Products):
    """A number stays where it is in its word, and is worth 16**i: x is divided by as much.

    Numbers lie offset by 8. Their sums begin at -8 times the sum of x over the group, so that
    nothing is subtracted from a weight.
    """

    @property
    def rows(self) -> int:
        return max(1, min(MOST_ROWS, self.isa.registers * 3 // 4 // len(self.at)))

    def begin(self, arguments: Arguments, block: int) -> None:
        self.arguments = arguments
        self.x = workspace(block, self.work.k)
        self.start = workspace(block, self.work.groups)

    def prepare(self, first: Expr, count: Expr) -> None:
        """Divide x, and sum up each group."""
        work, lanes = self.work, min(8, self.isa.lanes)
        group = work.k // work.groups
        factors = [2.0 ** -(shift if shift < 28 else 0) for shift in SHIFTS]
        with loop(count) as row, loop(work.groups) as at:
            total = registers(lanes)
            store(total, splat(0.0, lanes), 0)
            with loop(group // 8) as eight:
                for part in range(0, 8, lanes):
                    place = at * group + eight * 8 + part
                    x = T.bind(load(self.arguments.x, first + row, place, lanes=lanes))
                    store(total, load(total, 0, lanes=lanes) + x, 0)
                    divided = x * _vector(factors[part : part + lanes])
                    store(self.x, divided, row, place)
            sum_of_group = reduce_add(load(total, 0, lanes=lanes))
            store(self.start, sum_of_group * T.float32(-OFFSET), row, at)

    def add(self, total: Tile, strip: Strip, row: Expr, rows: int) -> None:
        lanes, steps = self.isa.lanes, self.work.k // self.work.groups // 8
        ways = WAYS if rows == 1 else 1
        with loop(self.work.groups) as group:
            sums = [zeros(rows, self.columns, lanes) for _ in range(ways)]
            for r in range(rows):
                start = splat(self.start[row + r, group], lanes)
                for column in self.at:
                    sums[0].store(start, r, column)
            with loop(steps) as step:
                self._step(sums, strip, group * steps + step, row, rows)
            for column in self.at:
                scale = T.bind(strip.load(self.arguments.scale, group, column, lanes))
                for r in range(rows):
                    parts = [way.load(r, column, lanes) for way in sums]
                    total.add(sum(parts[1:], parts[0]) * scale, r, column)

    def _step(self, sums: list[Tile], strip: Strip, at: Expr, row: Expr, rows: int) -> None:
        lanes = self.isa.lanes
        self.ask(self.arguments.weight, strip, at)
        numbers = self._numbers(at, row, rows)
        for column in self.at:
            words = T.bind(strip.load(self.arguments.weight, at, column, lanes))
            for i, shift in enumerate(SHIFTS):
                weights = T.bind(_number(words, shift).astype(f"float32x{lanes}"))
                for r in range(rows):
                    sums[i % len(sums)].add(splat(numbers[r][i], lanes) * weights, r, column)

    def _numbers(self, at: Expr, row: Expr, rows: int) -> list[list[Expr]]:
        if not self.isa.by_lane:
            return [[self.x[row + r, at * 8 + i] for i in range(8)] for r in range(rows)]
        held = registers(rows, 8)
        for r in range(rows):
            for half in (0, 4):
                store(held, load(self.x, row + r, at * 8 + half, lanes=4), r, half)
        return [[held[r, i] for i in range(8)] for r in range(rows)]


def zeros(rows: int, columns: int, lanes: int, dtype: str = "float32") -> Tile:
    """A tile that holds zeros."""
    tile = Tile(rows, columns, dtype)
    for row in range(rows):
        for column in range(0, columns, lanes):
            tile.store(tirx.const(0, f"{dtype}x{lanes}"), row, column)
    return tile


def _number(words: Expr, shift: int) -> Expr:
    """The four bits from bit `shift` of each word on, where they are; the last ones at bit 0."""
    dtype = str(words.ty)
    if shift < 28:
        return words & tirx.const(15 << shift, dtype)
    unsigned = tirx.reinterpret(dtype.replace("int", "uint"), words)
    return tirx.reinterpret(dtype, unsigned >> tirx.const(shift, unsigned.ty))


def _vector(values: list[float]) -> Expr:
    return tirx.Shuffle([T.float32(value) for value in values], list(range(len(values))))


def _repeated(vector: Expr, lanes: int) -> Expr:
    """Four numbers, as often as `lanes` holds them."""
    if lanes == 4:
        return vector
    four = T.bind(vector)
    return tirx.Shuffle([four] * (lanes // 4), [i % 4 for i in range(lanes)])


def _pairs(left: Expr, right: Expr) -> Expr:
    """The sums of neighbouring lanes of `left`, then of `right`."""
    lanes = 2 * int(str(left.ty).partition("x")[2])
    even, odd = ([i for i in range(lanes) if i % 2 == odd] for odd in (0, 1))
    return tirx.Shuffle([left, right], even) + tirx.Shuffle([left, right], odd)
