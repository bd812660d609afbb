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

from pocketformer.schedules.cpu.dot import Dot
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
    when,
)
from pocketformer.schedules.cpu.matmul_operands import (
    GROUP,
    LeftRows,
    RightPanels,
    less_of,
    ones_like,
)
from pocketformer.schedules.cpu.neon_stores import WIDE, NeonIntegers, neon
from pocketformer.schedules.cpu.short_stores import RANGE, Integers
from pocketformer.schedules.cpu.spaces import one_at_a_time, tiles_of, widths_of
from pocketformer.schedules.workloads import QuantizedMatmul

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 18     # multiply-adds: some 2 us of one core
UNKNOWN = 64                # what a size known only at run time is taken for
MOST_STEPS = 4              # groups of k that are unrolled


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
    """Writes one kernel."""

    def __init__(self, point: QuantizedBatchMatmul, workload: QuantizedMatmul) -> None:
        self.point, self.workload = point, workload
        self.dot = dot_named(point.dot, "int8")
        self.lanes, self.columns = self.dot.lanes, range(0, point.columns, self.dot.lanes)

    def write(self) -> tirx.PrimFunc:
        work, point = self.workload, self.point
        sizes = (work.batch, work.m, work.n, work.k)
        with prim_func(point.name) as function:
            self.batch, self.m, self.n, self.k = map(
                function.size, ("batch", "m", "n", "k"), sizes)
            a = function.argument("a", (self.batch, self.m, self.k), work.a_dtype)
            b = function.argument("b", (self.batch, self.k, self.n), work.b_dtype)
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
            zeros = (T.bind(a_zero[0] + self.dot.offset(work.a_dtype)),
                     T.bind(b_zero[0] - less_of(b)))
            with imported(self.dot.llvm):
                self._body(a, b, *zeros)
        return function.func

    def _body(self, a: Buffer, b: Buffer, a_zero: Expr, b_zero: Expr) -> None:
        amount = 1
        for size in (self.workload.batch, self.workload.m, self.workload.n, self.workload.k):
            amount *= size or UNKNOWN
        shared = amount >= WORTH_SHARING
        panels = ceil_div(self.n, self.point.columns)
        self.right = RightPanels(self.dot, b, self.point.columns)
        ones = ones_like(self.dot, a)
        with parallel_loop(self.batch * panels, shared) as task:
            self.right.pack(task // panels, task % panels, a_zero, ones)
        tiles = ceil_div(self.m, self.point.rows)
        with parallel_loop(self.batch * tiles, shared) as task:
            batch, row = T.bind(task // tiles), T.bind(task % tiles * self.point.rows)
            self.left = LeftRows(self.dot, a, self.point.rows)
            self.left.pack(batch, row, a_zero, b_zero)
            self._finisher()
            with loop(panels) as panel:
                self._tile(batch, panel, row)

    def _tile(self, batch: Expr, panel: Expr, row: Expr) -> None:
        rows = self.point.rows
        sums = Tile(rows, self.point.columns, "int32")
        for column in self.columns:
            start = T.bind(load(self.right.starts, batch, panel, column, lanes=self.lanes))
            for r in range(rows):
                sums.store(start + splat(self.left.starts[r], self.lanes), r, column)

        def step(group: Expr) -> None:
            factors = self.left.factors(group)
            for column in self.columns:
                words = load(self.right.panels, batch, panel, group, column, lanes=self.lanes)
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
