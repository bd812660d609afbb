"""Writes the kernel of a `Gemm` point: which tiles there are, and what each does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.gemv import single_row
from pocketformer.schedules.cpu.intrinsics import Isa, isa_named
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Tile,
    ceil_div,
    imported,
    load,
    loop,
    prim_func,
    registers,
    splat,
    store,
    transpose,
    when,
    workspace,
)
from pocketformer.schedules.cpu.packing import packed_shape, part_of_panel
from pocketformer.schedules.cpu.tiles import block_rows, each_block
from pocketformer.schedules.workloads import Linear

if TYPE_CHECKING:
    from pocketformer.schedules.cpu.gemm import Gemm

Left = Callable[[Expr, int], list[Expr]]       # k, steps -> the numbers of all rows, step by step
Right = Callable[[Expr, int, int], Expr]       # k, column, lanes -> weights


class GemmWriter:
    """Writes one kernel."""

    def __init__(self, point: Gemm, workload: Linear) -> None:
        self.point, self.workload = point, workload
        self.isa: Isa = isa_named(point.isa)
        self.tiles = point.tiles(workload)
        self.blocks = int(ceil_div(workload.k, point.k_block)) if point.k_block else 1
        self.partial: Buffer = None
        self.x: Buffer = None
        self.weight: Buffer = None

    def write(self) -> tirx.PrimFunc:
        work, point = self.workload, self.point
        with prim_func(point.named(work)) as function:
            self.m = function.size("m", work.m)
            self.x = function.argument("x", (self.m, work.k))
            self.weight = function.argument(
                "weight", packed_shape(work.n, work.k, point.panel))
            self.end = Epilogue(function, work, self.m, point.columns, self.isa.lanes)
            with imported(prefetch.LLVM if point.ahead else ""):
                if self.isa.by_lane and work.m != 1:
                    self._packed_blocks()
                else:
                    self._multiply(0, self.m, None)
        return function.func

    def _packed_blocks(self) -> None:
        """Pack a block of rows of x, multiply it, and go on to the next."""
        rows, lanes = self.point.rows, self.isa.lanes
        whole = ceil_div(rows, lanes) * lanes       # rows are stored by vectors
        packed = workspace(block_rows(self.m, rows) // rows, self.workload.k, whole)

        def block(first: Expr, count: Expr) -> None:
            self._pack(packed, first, count)
            self._multiply(first, count, packed)

        each_block(self.m, rows, block)

    def _pack(self, packed: Buffer, first: Expr, count: Expr) -> None:
        """packed[tile, k, row] = x[first + the tile's row, k]; vectors are filled with the last."""
        k, lanes = self.workload.k, self.isa.lanes

        def tile(number: Expr, start: Expr, height: int) -> None:
            for r in range(0, height, lanes):
                rows = [first + start + min(r + i, height - 1) for i in range(lanes)]
                with loop(k // lanes) as step:
                    block = [load(self.x, row, step * lanes, lanes=lanes) for row in rows]
                    for i, vector in enumerate(transpose(block)):
                        store(packed, vector, number, step * lanes + i, r)
                for last in range(k // lanes * lanes, k):
                    for i, row in enumerate(rows):
                        store(packed, self.x[row, last], number, last, r + i)

        self.tiles.each(count, tile)

    def _multiply(self, first: Expr, count: Expr, packed: Buffer | None) -> None:
        """Multiply `count` rows from row `first`."""
        point = self.point

        def begin(strip: Expr) -> None:
            self.end.begin(strip, point.rows)
            if point.k_block:
                rows = self.tiles.per_group(count) * point.rows
                self.partial = workspace(rows, point.columns)
                for end in ((0, 0), (rows - 1, point.columns - 1)):
                    store(self.partial, splat(0.0, 1), *end)    # or TVM would make it smaller

        def compute(
            strip: Expr, tile: Expr, row: Expr, rows: int, block: Expr | None = None
        ) -> None:
            self._tile(strip, first + row, rows, packed, tile, block, self.tiles.per_group(count))

        if self.blocks > 1:
            self.tiles.walk_in_rounds(count, begin, compute, self.blocks)
        else:
            self.tiles.walk(count, begin, compute)

    def _tile(
        self, strip: Expr, row: Expr, rows: int, packed: Buffer | None, tile: Expr,
        block: Expr | None, per_group: Expr,
    ) -> None:
        """`rows` rows of one strip from `row` on, which `packed` holds as its `tile`.

        Of several blocks of k one: the sums so far are kept as one of the task's `per_group` tiles.
        """
        panel, start = part_of_panel(strip, self.point.columns, self.point.panel)

        def right(k: Expr, column: int, lanes: int) -> Expr:
            return load(self.weight, panel, k, start + column, lanes=lanes)

        def begin_step(k: Expr) -> None:
            if self.point.ahead:
                prefetch.prefetch(
                    self.weight, panel, k, start, self.point.columns, self.point.ahead)

        last = block is None or block == self.blocks - 1
        if rows == 1:
            with when(last):    # all blocks at once
                total = single_row(self.isa, self.x, row, self.point.columns, self.end, right)
                self.end.finish(total, strip, row, rows)
            return
        left = (self._from_memory(row, rows) if packed is None
                else self._from_lanes(packed, tile, rows))
        total = Tile(rows, self.point.columns)
        if block is None:
            self.end.start(total, rows)
            self._accumulate(total, rows, begin_step, left, right, block)
            self.end.finish(total, strip, row, rows)
            return
        kept = tile % per_group * self.point.rows
        places = [(r, column) for r in range(rows)
                  for column in range(0, self.point.columns, self.isa.lanes)]
        with T.If(block == 0):
            with T.Then():
                self.end.start(total, rows)
            with T.Else():
                for r, column in places:
                    total.store(load(self.partial, kept + r, column, lanes=self.isa.lanes),
                                r, column)
        self._accumulate(total, rows, begin_step, left, right, block)
        with T.If(last):
            with T.Then():
                self.end.finish(total, strip, row, rows)
            with T.Else():
                for r, column in places:
                    store(self.partial, total.load(r, column, self.isa.lanes), kept + r, column)

    def _from_memory(self, row: Expr, rows: int) -> Left:
        def left(k: Expr, steps: int) -> list[Expr]:
            return [self.x[row + r, k + u] for u in range(steps) for r in range(rows)]
        return left

    def _from_lanes(self, packed: Buffer, tile: Expr, rows: int) -> Left:
        lanes = self.isa.lanes
        padded = ceil_div(rows, lanes) * lanes

        def left(k: Expr, steps: int) -> list[Expr]:
            held = registers(steps, padded)
            for u in range(steps):
                for r in range(0, padded, lanes):
                    store(held, load(packed, tile, k + u, r, lanes=lanes), u, r)
            return [held[u, r] for u in range(steps) for r in range(rows)]
        return left

    def _accumulate(
        self, total: Tile, rows: int, begin_step: Callable[[Expr], None], left: Left, right: Right,
        block: Expr | None,
    ) -> None:
        """Add the products of a block of k, or of all."""
        lanes, k, unroll = self.isa.lanes, self.workload.k, self.point.unroll

        def steps(at: Any, count: int) -> None:
            numbers = left(at, count)
            for u in range(count):
                begin_step(at + u)
                for r in range(rows):
                    for column in range(0, self.point.columns, lanes):
                        factor = splat(numbers[u * rows + r], lanes)
                        total.add(factor * right(at + u, column, lanes), r, column)

        if block is None:
            with loop(k // unroll) as step:
                steps(step * unroll, unroll)
        else:
            first = block * self.point.k_block
            with loop(tirx.min(self.point.k_block, k - first) // unroll) as step:
                steps(first + step * unroll, unroll)
        if k % unroll:
            with when(block is None or block == self.blocks - 1):
                steps(k // unroll * unroll, k % unroll)
