"""Products of two quantised activations, batch by batch, by the machine's products of bytes.

As in batch_matmul.py, the right one is laid out as panels first: in words of four numbers that are
neighbours in k. A task then packs the rows of its tile in words, too, and goes over all panels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_words import neighbours
from pocketformer.schedules.cpu.dot import SIGNS, Dot
from pocketformer.schedules.cpu.dot_table import dot_named, dots_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    Tile,
    ceil_div,
    imported,
    load,
    loop,
    parallel_loop,
    prim_func,
    registers,
    splat,
    store,
    transpose,
    when,
    workspace,
)
from pocketformer.schedules.cpu.math import constant
from pocketformer.schedules.cpu.neon_stores import WIDE, NeonIntegers, neon
from pocketformer.schedules.cpu.short_stores import RANGE, Integers
from pocketformer.schedules.cpu.spaces import one_at_a_time, tiles_of, widths_of
from pocketformer.schedules.workloads import QuantizedMatmul

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 18     # multiply-adds: some 2 us of one core
UNKNOWN = 64                # what a size known only at run time is taken for
GROUP = 4                   # numbers of a word
MOST_STEPS = 4              # groups of k that are unrolled
ONES = 0x01010101           # a word of four ones


@dataclass(frozen=True)
class QuantizedBatchMatmul:
    """A `rows` x `columns` tile of the result in registers; `unroll` groups of k at a time."""

    dot: str
    rows: int
    columns: int
    unroll: int = 1

    @property
    def name(self) -> str:
        tile = f"{self.rows}x{self.columns}k{GROUP * self.unroll}"
        return f"i8_batch_matmul_{tile}_{self.dot}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, QuantizedMatmul)

    @classmethod
    def space(
        cls, target: Target, workload: QuantizedMatmul
    ) -> Iterator[QuantizedBatchMatmul]:
        """The default, then every tile that fits registers and wastes little of `workload.n`."""
        default = cls.default(target, workload)
        dot = dot_named(default.dot, "int8")
        tiles = tiles_of(dot, target.vector_registers, widths_of(dot.lanes, workload.n), workload.m)
        points = [default, *(replace(default, rows=rows, columns=columns)
                             for rows, columns in tiles if _whole(dot, columns))]
        for point in dict.fromkeys(points):
            yield from one_at_a_time(point, {"unroll": (1, 2, 4)})

    @classmethod
    def default(cls, target: Target, workload: QuantizedMatmul) -> QuantizedBatchMatmul:
        """The best instruction of `target`, the tile that wastes least."""
        dot = next(dot for dot in dots_of(target, "int8") if not dot.matrix)
        return cls.best(dot, workload)

    @classmethod
    def best(cls, dot: Dot, workload: QuantizedMatmul) -> QuantizedBatchMatmul:
        """The tile of an instruction that pads the result least."""
        m, n = workload.m or UNKNOWN, workload.n or UNKNOWN
        rows, columns = min(
            (tile for tile in dot.tiles if _whole(dot, tile[1])),
            key=lambda tile: ceil_div(m, tile[0]) * tile[0] * ceil_div(n, tile[1]) * tile[1])
        return cls(dot.name, rows, columns, min(dot.unroll, MOST_STEPS))

    def kernel(self, workload: QuantizedMatmul, target: Target) -> Kernel:
        return Kernel(self.name, self.build(workload, target))

    def build(self, workload: QuantizedMatmul, target: Target) -> tirx.PrimFunc:
        """a[batch, m, k], b[batch, k, n], a_zero, b_zero, scale?, out_factor?, out_zero? -> out."""
        return _Writer(self, workload).write()


def _whole(dot: Dot, columns: int) -> bool:
    """Whether Arm's instructions can narrow such a row of a tile: eight numbers at a time."""
    return not neon(dot) or columns % WIDE == 0


class _Writer:
    """Writes one kernel.

    With a' and b' what the machine multiplies (numbers moved by 128 where it wants them so), and
    za', zb' moved as much, the sums of (a' - za')(b' - zb') over k are
    sum(a' b') - za' sum(b') - zb' (sum(a') - k za'): exact, a number for each column and each row.
    """

    def __init__(self, point: QuantizedBatchMatmul, workload: QuantizedMatmul) -> None:
        self.point, self.workload = point, workload
        self.dot = dot_named(point.dot, "int8")
        self.lanes, self.columns = self.dot.lanes, range(0, point.columns, self.dot.lanes)
        self.per_word = GROUP // self.dot.parts      # numbers of a in a packed word
        self.step = self.lanes * self.per_word
        self.height = self.lanes if self.dot.by_lane else 1
        self.tall = ceil_div(point.rows, self.height) * self.height

    def write(self) -> tirx.PrimFunc:
        work, point = self.workload, self.point
        sizes = (work.batch, work.m, work.n, work.k)
        with prim_func(point.name) as function:
            self.batch, self.m, self.n, self.k = map(
                function.size, ("batch", "m", "n", "k"), sizes)
            self.a = function.argument("a", (self.batch, self.m, self.k), work.a_dtype)
            self.b = function.argument("b", (self.batch, self.k, self.n), work.b_dtype)
            a_zero = function.argument("a_zero", (1,), "int32")
            b_zero = function.argument("b_zero", (1,), "int32")
            whole = work.out_dtype == "int32"
            self.scale = None if whole else function.argument("scale", (1,))
            self.out_factor: Buffer | None = None
            self.out_zero: Buffer = None
            if work.out_dtype in RANGE:
                self.out_factor = function.argument("out_factor", (1,))
                self.out_zero = function.argument("out_zero", (1,), "int32")
            self.out = function.argument("out", (self.batch, self.m, self.n), work.out_dtype)
            self.a_zero = T.bind(a_zero[0] + self.dot.offset(work.a_dtype))
            self.b_zero = T.bind(b_zero[0] - self._b_less)
            with imported(self.dot.llvm):
                self._body()
        return function.func

    def _body(self) -> None:
        amount = 1
        for size in (self.workload.batch, self.workload.m, self.workload.n, self.workload.k):
            amount *= size or UNKNOWN
        shared = amount >= WORTH_SHARING
        panels, groups = ceil_div(self.n, self.point.columns), ceil_div(self.k, GROUP)
        self.panels = workspace(self.batch, panels, groups, self.point.columns, dtype="int32")
        self.starts = workspace(self.batch, panels, self.point.columns, dtype="int32")
        with parallel_loop(self.batch * panels, shared) as task:
            self._pack_panel(task // panels, task % panels)
        tiles = ceil_div(self.m, self.point.rows)
        with parallel_loop(self.batch * tiles, shared) as task:
            batch, row = T.bind(task // tiles), T.bind(task % tiles * self.point.rows)
            self._pack_rows(batch, row)
            self._finisher()
            with loop(panels) as panel:
                self._tile(batch, panel, row)

    @property
    def _b_less(self) -> int:
        """How much less than b what is multiplied is: it has a sign."""
        return 128 if self.workload.b_dtype == "uint8" else 0

    # The right factor

    def _pack_panel(self, batch: Expr, panel: Expr) -> None:
        """A panel of b; columns past the end are the last one, and are never stored."""
        first, columns = T.bind(panel * self.point.columns), self.point.columns
        whole = self.k // GROUP
        with T.If(first + columns <= self.n):
            with T.Then(), loop(whole) as group:
                for column in self.columns:
                    rows = [load(self.b, batch, group * GROUP + i, first + column, lanes=self.lanes)
                            for i in range(GROUP)]
                    words = tirx.reinterpret(f"int32x{self.lanes}", neighbours(rows))
                    words = words ^ constant(SIGNS, words) if self._b_less else words
                    store(self.panels, words, batch, panel, group, column)
            with T.Else(), loop(whole) as group:
                self._pack_singly(batch, panel, first, group)
        if not isinstance(self.k, int) or self.k % GROUP:
            with when(isinstance(self.k, int) or self.k % GROUP > 0):
                self._pack_singly(batch, panel, first, whole)
        self._start_columns(batch, panel)

    def _pack_singly(self, batch: Expr, panel: Expr, first: Expr, group: Expr) -> None:
        """A group of k, number by number; those past the end of k become 0."""
        with loop(self.point.columns) as column:
            at, word = tirx.min(first + column, self.n - 1), tirx.const(0, "int32")
            for i in range(GROUP):
                row = group * GROUP + i
                number = self.b[batch, tirx.min(row, self.k - 1), at].astype("int32")
                byte = tirx.Select(row < self.k, (number & 255) ^ self._b_less, 0)
                word = word | (byte << (8 * i))
            store(self.panels, word, batch, panel, group, column)

    def _start_columns(self, batch: Expr, panel: Expr) -> None:
        """-za' sum(b') of every column."""
        ones = self.dot.left(splat(
            tirx.const(1 - self.dot.offset(self.workload.a_dtype), self.workload.a_dtype),
            self.step))
        sums = Tile(1, self.point.columns, "int32")
        for column in self.columns:
            sums.store(splat(tirx.const(0, "int32"), self.lanes), 0, column)
        with loop(ceil_div(self.k, GROUP)) as group:
            for column in self.columns:
                words = load(self.panels, batch, panel, group, column, lanes=self.lanes)
                for part in self.dot.right(words):
                    before = sums.load(0, column, self.lanes)
                    sums.store(self.dot.add(before, ones, part), 0, column)
        for column in self.columns:
            start = sums.load(0, column, self.lanes) * splat(0 - self.a_zero, self.lanes)
            store(self.starts, start, batch, panel, column)

    # The left factor

    def _pack_rows(self, batch: Expr, row: Expr) -> None:
        """The rows of a tile, [word, row] or [row, word]; those past the end are the last one."""
        words = ceil_div(self.k, self.step) * self.lanes
        shape = (words, self.tall) if self.dot.by_lane else (self.tall, words)
        self.held = workspace(*shape, dtype="int32")
        self.row_starts = registers(self.tall, dtype="int32")
        kind = self.workload.a_dtype
        edge = registers(self.height, self.step, dtype=kind)
        for slot in range(self.height):     # zeros, once they are moved
            store(edge, splat(tirx.const(-self.dot.offset(kind), kind), self.step), slot, 0)
        with loop(self.tall // self.height) as group:
            rows = [T.bind(tirx.min(row + group * self.height + slot, self.m - 1))
                    for slot in range(self.height)]
            self._pack_group(batch, group, rows, edge)

    def _pack_group(self, batch: Expr, group: Expr, rows: list[Expr], edge: Buffer) -> None:
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
        moved = T.bind(self.a_zero * tirx.Cast("int32", tirx.convert(self.k)))
        for slot in range(self.height):
            total = tirx.call_llvm_pure_intrin(
                "int32", "llvm.vector.reduce.add", totals.load(slot, 0, self.lanes))
            store(self.row_starts, (moved - total) * self.b_zero, group * self.height + slot)

    # The result

    def _tile(self, batch: Expr, panel: Expr, row: Expr) -> None:
        rows = self.point.rows
        sums = Tile(rows, self.point.columns, "int32")
        for column in self.columns:
            start = T.bind(load(self.starts, batch, panel, column, lanes=self.lanes))
            for r in range(rows):
                sums.store(start + splat(self.row_starts[r], self.lanes), r, column)

        def step(group: Expr) -> None:
            factors = self._factors(group)
            for column in self.columns:
                words = load(self.panels, batch, panel, group, column, lanes=self.lanes)
                for part, right in enumerate(self.dot.right(T.bind(words))):
                    for r in range(rows):
                        before = sums.load(r, column, self.lanes)
                        sums.store(self.dot.add(before, factors[part][r], right), r, column)

        groups, unroll = ceil_div(self.k, GROUP), self.point.unroll
        with loop(groups // unroll) as at:
            for u in range(unroll):
                step(at * unroll + u)
        if unroll > 1:
            with loop(groups % unroll) as at:
                step(groups // unroll * unroll + at)
        self._finish(sums, batch, panel, row)

    def _factors(self, group: Expr) -> list[list[Expr]]:
        """Vectors [part][row] of the words of a group."""
        parts, rows = self.dot.parts, self.point.rows
        if not self.dot.by_lane:
            return [[splat(self.held[r, group * parts + part], self.lanes) for r in range(rows)]
                    for part in range(parts)]
        near = registers(parts, self.tall, dtype="int32")
        for part in range(parts):
            for r in range(0, self.tall, self.lanes):
                vector = load(self.held, group * parts + part, r, lanes=self.lanes)
                store(near, vector, part, r)
        return [[splat(near[part, r], self.lanes) for r in range(rows)] for part in range(parts)]

    def _finisher(self) -> None:
        """Fetch what results are scaled and rounded by."""
        self.rounding: Integers | NeonIntegers | None = None
        if self.scale is None:
            return
        factor = self.scale[0]
        if self.out_factor is not None:
            factor = factor * self.out_factor[0]
            of = NeonIntegers.of if neon(self.dot) else Integers.of
            self.rounding = of(self.out_zero[0], self.workload.out_dtype)
        self.factor = T.bind(factor)

    def _finish(self, sums: Tile, batch: Expr, panel: Expr, row: Expr) -> None:
        """Write the tile, row by row; of the last panel, what there is of it."""
        first, columns = T.bind(panel * self.point.columns), self.point.columns
        staged = registers(columns, dtype=self.workload.out_dtype)
        wide = WIDE if self.rounding is not None and neon(self.dot) else self.lanes
        for r in range(self.point.rows):
            values = [(column, self._result(sums.load(r, column, wide)))
                      for column in range(0, columns, wide)]
            with when(row + r < self.m), T.If(first + columns <= self.n):
                with T.Then():
                    for column, value in values:
                        store(self.out, value, batch, row + r, first + column)
                with T.Else():
                    for column, value in values:
                        store(staged, value, column)
                    with loop(self.n - first) as column:
                        store(self.out, staged[column], batch, row + r, first + column)

    def _result(self, sums: Expr) -> Expr:
        if self.scale is None:
            return sums
        lanes = int(str(sums.ty).partition("x")[2])
        value = sums.astype(f"float32x{lanes}") * splat(self.factor, lanes)
        return value if self.rounding is None else self.rounding(value)
