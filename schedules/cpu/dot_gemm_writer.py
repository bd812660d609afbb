"""Writes the kernel of a `DotGemm` point: which tiles there are, and what each does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.dot_left import Left, left_of
from pocketformer.schedules.cpu.dot_right import Right, right_of
from pocketformer.schedules.cpu.dot_table import dot_named
from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.group_packing import grouped_shape
from pocketformer.schedules.cpu.kernel import (
    Expr,
    Tile,
    ceil_div,
    imported,
    loop,
    prim_func,
    splat,
)
from pocketformer.schedules.cpu.quantized_epilogue import QuantizedEpilogue
from pocketformer.schedules.cpu.tiles import block_rows, each_block
from pocketformer.schedules.workloads import Linear, QuantizedLinear

if TYPE_CHECKING:
    from pocketformer.schedules.cpu.dot_gemm import DotGemm

IN_FLIGHT = 8      # sums under way that hide the time which each takes


class DotGemmWriter:
    """Writes one kernel."""

    def __init__(self, point: DotGemm, workload: Linear | QuantizedLinear) -> None:
        self.point, self.workload = point, workload
        self.dot: Dot = dot_named(point.dot, point.dtype)
        self.tiles = point.tiles(workload)

    def write(self) -> tirx.PrimFunc:
        work, point, dot = self.workload, self.point, self.dot
        shape = grouped_shape(work.n, work.k, point.panel, dot.group)
        with prim_func(point.named(work)) as function:
            m = function.size("m", work.m)
            x = function.argument("x", (m, work.k), work.x_dtype)
            weight = function.argument("weight", shape, dot.dtype)
            self.end: Epilogue | QuantizedEpilogue = (
                QuantizedEpilogue(function, work, m, point.columns, dot)
                if isinstance(work, QuantizedLinear)
                else Epilogue(function, work, m, point.columns, dot.lanes))
            with imported(dot.llvm + (prefetch.LLVM if point.ahead else "")):
                words = T.decl_buffer(shape[:3], dot.held, data=weight.data)
                self.right: Right = right_of(dot, words, point.columns, point.ahead, self._turns())
                self.left: Left = left_of(dot, x, point.rows)
                if isinstance(self.end, QuantizedEpilogue) and self.left.range is not None:
                    self.end.take(self.left.range.scale, self.left.range.zero)
                each_block(m, point.rows, self._block)
        return function.func

    def _turns(self) -> int:
        """For how many tiles a task has the weights of its strip; for one, where m is not known."""
        m = self.workload.m
        return self.tiles.per_group(min(m, block_rows(m, self.point.rows))) if m else 1

    def _block(self, first: Expr, count: Expr) -> None:
        self.left.pack(self.tiles, first, count)

        def begin(strip: Expr) -> None:
            self.end.begin(strip, self.point.rows)
            self.right.begin(strip)

        def compute(strip: Expr, tile: Expr, row: Expr, rows: int) -> None:
            total = self._sums(strip, tile, row, first + row, rows)
            self.end.finish(total, strip, first + row, rows)

        self.tiles.walk(count, begin, compute)

    def _sums(self, strip: Expr, tile: Expr, row: Expr, x_row: Expr, rows: int) -> Tile:
        """What the epilogue starts with, and the products of a tile of x with a strip.

        The tile begins at `row` of the block and `x_row` of x.
        """
        dot, steps = self.dot, self.right.steps
        if isinstance(end := self.end, QuantizedEpilogue):
            # Its arguments have the rows of x, what the kernel finds itself those of the block.
            at_row = row if end.by_kernel else x_row
            sums = self._products(strip, tile, row, rows, 0, steps, lambda first: (
                end.start_sums(first, at_row, rows)))
            total = Tile(rows, self.point.columns, end.kept)
            for r, column in self._places(rows):
                total.store(end.result(self._sum(sums, r, column), r, column), r, column)
            return total
        if dot.sums == "float32" and not dot.matrix:
            return self._products(strip, tile, row, rows, 0, steps, lambda first: (
                self.end.start(first, rows)))
        total = Tile(rows, self.point.columns)
        self.end.start(total, rows)
        block = dot.block or steps

        def add(at: Any, count: int) -> None:
            sums = self._products(strip, tile, row, rows, at, count)
            for r, column in self._places(rows):
                total.add(self._sum(sums, r, column).astype(f"float32x{dot.lanes}"), r, column)

        if steps > block:
            with loop(steps // block) as number:
                add(number * block, block)
        if rest := steps % block or (steps if steps <= block else 0):
            add(steps - rest, rest)
        return total

    def _places(self, rows: int) -> list[tuple[int, int]]:
        """Where the vectors of a tile begin."""
        return list(product(range(rows), range(0, self.point.columns, self.dot.lanes)))

    def _sum(self, sums: Tile, row: int, column: int) -> Expr:
        if self.dot.matrix:
            return _of_matrices(sums, row, column)
        return sums.load(row, column, self.dot.lanes)

    def _products(
        self, strip: Expr, tile: Expr, row: Expr, rows: int, at: Any, count: int,
        start: Callable[[Tile], None] | None = None,
    ) -> Tile:
        """The sums of the products of `count` steps of k from `at` on; `start` begins the first.

        With matrices, a tile of pairs of rows and twice the columns.
        """
        dot, columns = self.dot, self.point.columns
        high, wide = (ceil_div(rows, 2), 2 * columns) if dot.matrix else (rows, columns)
        sums = [Tile(high, wide, dot.sums) for _ in range(ways(dot, rows, columns))]
        places = [(r, column) for r in range(high) for column in range(0, wide, dot.lanes)]
        for each in sums[start is not None :]:
            for place in places:
                each.store(splat(tirx.const(0, dot.sums), dot.lanes), *place)
        if start:
            start(sums[0])
        self._multiply(strip, tile, row, rows, at, count, sums)
        for each in sums[1:]:
            for r, column in places:
                sums[0].add(each.load(r, column, dot.lanes), r, column)
        return sums[0]

    def _multiply(
        self, strip: Expr, tile: Expr, row: Expr, rows: int, first: Any, count: int,
        sums: list[Tile],
    ) -> None:
        """Add the products of `count` steps of k from `first` on, in turn to each of `sums`."""
        unroll = max(self.point.unroll, len(sums))
        factors = self.right.reader(strip)
        last = count > self.right.whole

        def several(at: Any, steps: int, whole: bool = True) -> None:
            left = self.left.read(tile, row, rows, at, steps)
            for step in range(steps):
                total = sums[step % len(sums)]
                right = factors(at + step, whole or step < steps - 1)
                for part, of_rows in enumerate(left[step]):
                    for r, factor in enumerate(of_rows):
                        for number, each in enumerate(right):
                            column = number * self.dot.lanes
                            before = total.load(r, column, self.dot.lanes)
                            total.store(self.dot.add(before, factor, each[part]), r, column)

        rounds = (count - last) // unroll
        with loop(rounds) as number:
            several(first + number * unroll, unroll)
        if rounds * unroll < count:
            several(first + rounds * unroll, count - rounds * unroll, not last)


def ways(dot: Dot, rows: int, columns: int) -> int:
    """How many sums of everything there are, so that enough are in flight."""
    high, wide = (ceil_div(rows, 2), 2 * columns) if dot.matrix else (rows, columns)
    return int(ceil_div(IN_FLIGHT, high * wide // dot.lanes))


def _of_matrices(sums: Tile, row: int, column: int) -> Expr:
    """Four columns of a row, of two by two sums."""
    pair = [sums.load(row // 2, 2 * column + at, 4) for at in (0, 4)]
    first = 2 * (row % 2)
    return tirx.Shuffle(pair, [first, first + 1, first + 4, first + 5])
