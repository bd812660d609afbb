"""Linear layers with weights of short numbers, by the machine's instructions for their products.

As in gemm.py, a tile of the result stays in registers while panels of packed weights stream by. The
rows of x are rounded and packed first, a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.dot_left import Left, left_of
from pocketformer.schedules.cpu.dot_table import dot_named, dots_of
from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.group_packing import grouped_shape, pack_groups
from pocketformer.schedules.cpu.kernel import (
    Expr,
    Kernel,
    Tile,
    ceil_div,
    load,
    loop,
    prim_func,
    splat,
)
from pocketformer.schedules.cpu.packing import default_tile
from pocketformer.schedules.cpu.quantized_epilogue import QuantizedEpilogue
from pocketformer.schedules.cpu.tiles import Tiles, each_block, worth_sharing
from pocketformer.schedules.workloads import Linear, QuantizedLinear

if TYPE_CHECKING:
    from pocketformer.targets import Target

SHORT = {"bfloat16": "bf16", "int8": "i8"}
IN_FLIGHT = 8      # sums under way that hide the time which each takes


@dataclass(frozen=True)
class DotGemm:
    """A `rows` x `columns` tile; the k loop takes `unroll` groups at a time."""

    dot: str
    dtype: str
    rows: int
    columns: int
    unroll: int = 1

    @property
    def name(self) -> str:
        step = self.unroll * dot_named(self.dot, self.dtype).group
        return f"{SHORT[self.dtype]}_gemm_{self.rows}x{self.columns}k{step}_{self.dot}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Linear | QuantizedLinear) and workload.dtype in SHORT

    @classmethod
    def space(cls, target: Target, workload: Linear | QuantizedLinear) -> Iterator[DotGemm]:
        """Every tile of every instruction for the workload."""
        for dot in dots_of(target, workload.dtype):
            for rows, columns in dot.tiles:
                for unroll in (1, 2, 4):
                    yield cls(dot.name, dot.dtype, rows, columns, unroll)

    @classmethod
    def default(cls, target: Target, workload: Linear | QuantizedLinear) -> DotGemm:
        """The best instruction of `target`, the tile that suits it."""
        return cls.best(next(dots_of(target, workload.dtype)), workload)

    @classmethod
    def best(cls, dot: Dot, workload: Linear | QuantizedLinear) -> DotGemm:
        """The best tile whose panels waste little of `workload.n`; it depends on n alone."""
        rows, columns = default_tile(dot, workload.n)
        return cls(dot.name, dot.dtype, rows, columns, dot.unroll)

    def kernel(self, workload: Linear | QuantizedLinear, target: Target) -> Kernel:
        n, k, group = workload.n, workload.k, dot_named(self.dot, self.dtype).group
        return Kernel(
            self.name,
            self.build(workload, target),
            lambda weight: pack_groups(weight, n, k, self.columns, group),
            grouped_shape(n, k, self.columns, group),
        )

    def build(self, workload: Linear | QuantizedLinear, target: Target) -> tirx.PrimFunc:
        """x[m, k], weight, the scales of integers, bias[n]?, residual[m, n]? -> out[m, n]."""
        return _Writer(self, workload).write()


@contextmanager
def imported(text: str) -> Iterator[None]:
    """The body may call the functions of an LLVM module."""
    if text:
        with T.attr("llvm", "pragma_import_llvm", text):
            yield
    else:
        yield


class _Writer:
    """Writes one kernel."""

    def __init__(self, point: DotGemm, workload: Linear | QuantizedLinear) -> None:
        self.point, self.workload = point, workload
        self.dot: Dot = dot_named(point.dot, point.dtype)
        layer = workload.in_float32 if isinstance(workload, QuantizedLinear) else workload
        self.tiles = Tiles(
            ceil_div(workload.n, point.columns), point.rows, worth_sharing(layer))

    def write(self) -> tirx.PrimFunc:
        work, point, dot = self.workload, self.point, self.dot
        shape = grouped_shape(work.n, work.k, point.columns, dot.group)
        with prim_func(point.name) as function:
            m = function.size("m", work.m)
            x_dtype = work.x_dtype if isinstance(work, QuantizedLinear) else "float32"
            x = function.argument("x", (m, work.k), x_dtype)
            weight = function.argument("weight", shape, dot.dtype)
            self.end = (
                QuantizedEpilogue(function, work, m, point.columns, dot)
                if isinstance(work, QuantizedLinear)
                else Epilogue(function, work, m, point.columns, dot.lanes))
            with imported(dot.llvm):
                words = (*shape[:2], point.columns * dot.group * _bytes(dot) // 4)
                self.weight = T.decl_buffer(words, "int32", data=weight.data)
                self.left: Left = left_of(dot, x, point.rows)
                each_block(m, point.rows, self._block)
        return function.func

    def _block(self, first: Expr, count: Expr) -> None:
        self.left.pack(self.tiles, first, count)

        def begin(panel: Expr) -> None:
            self.end.begin(panel, self.point.rows)

        def compute(panel: Expr, tile: Expr, row: Expr, rows: int) -> None:
            total = self._sums(panel, tile, row, first + row, rows)
            self.end.finish(total, panel, first + row, rows)

        self.tiles.walk(count, begin, compute)

    def _sums(self, panel: Expr, tile: Expr, row: Expr, x_row: Expr, rows: int) -> Tile:
        """What the epilogue starts with, and the products of a tile of x with a panel.

        The tile begins at `row` of the block and `x_row` of x.
        """
        dot, columns = self.dot, self.point.columns
        high, wide = (ceil_div(rows, 2), 2 * columns) if dot.matrix else (rows, columns)
        sums = [Tile(high, wide, dot.sums)
                for _ in range(ceil_div(IN_FLIGHT, high * wide // dot.lanes))]
        for each in sums:
            for r in range(high):
                for column in range(0, wide, dot.lanes):
                    each.store(splat(tirx.const(0, dot.sums), dot.lanes), r, column)
        plain = dot.sums == "float32" and not dot.matrix
        if plain:
            self.end.start(sums[0], rows)
        self._multiply(panel, tile, row, rows, sums)
        for each in sums[1:]:
            for r in range(high):
                for column in range(0, wide, dot.lanes):
                    sums[0].add(each.load(r, column, dot.lanes), r, column)
        if plain:
            return sums[0]
        total = Tile(rows, columns)
        self.end.start(total, rows)
        for r in range(rows):
            for column in range(0, columns, dot.lanes):
                value = (_of_matrices(sums[0], r, column) if dot.matrix
                         else sums[0].load(r, column, dot.lanes))
                if isinstance(self.end, QuantizedEpilogue):
                    value = self.end.scaled(value, x_row + r, column)
                total.add(value, r, column)
        return total

    def _multiply(
        self, panel: Expr, tile: Expr, row: Expr, rows: int, sums: list[Tile]
    ) -> None:
        """Add the products of all groups of k, in turn to each tile of `sums`."""
        unroll = max(self.point.unroll, len(sums))
        groups = int(self.weight.shape[1])
        wide = range(0, int(self.weight.shape[2]), self.dot.lanes)

        def steps(at: Any, count: int) -> None:
            left = self.left.read(tile, row, rows, at, count)
            for step in range(count):
                total = sums[step % len(sums)]
                words = [load(self.weight, panel, at + step, column, lanes=self.dot.lanes)
                         for column in wide]
                right = [self._parts(word) for word in words]
                for part, factors in enumerate(left[step]):
                    for r, factor in enumerate(factors):
                        for column, each in zip(wide, right, strict=True):
                            before = total.load(r, column, self.dot.lanes)
                            total.store(self.dot.add(before, factor, each[part]), r, column)

        with loop(groups // unroll) as step:
            steps(step * unroll, unroll)
        if groups % unroll:
            steps(groups // unroll * unroll, groups % unroll)

    def _parts(self, words: Expr) -> list[Expr]:
        parts = self.dot.right(words)
        return parts if len(parts) == 1 else [T.bind(part) for part in parts]


def _of_matrices(sums: Tile, row: int, column: int) -> Expr:
    """Four columns of a row, of two by two sums."""
    pair = [sums.load(row // 2, 2 * column + at, 4) for at in (0, 4)]
    first = 2 * (row % 2)
    return tirx.Shuffle(pair, [first, first + 1, first + 4, first + 5])


def _bytes(dot: Dot) -> int:
    return 1 if dot.dtype == "int8" else 2
