"""Linear layers with weights of short numbers, by the machine's instructions for their products.

As in gemm.py, a tile of the result stays in registers while panels of packed weights stream by. The
rows of x are rounded and packed first, a block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from tvm import DataType, tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.dot_left import Left, left_of
from pocketformer.schedules.cpu.dot_table import dot_named, dots_of
from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.group_packing import grouped_shape, pack_groups
from pocketformer.schedules.cpu.kernel import (
    STACK,
    Expr,
    Kernel,
    Tile,
    ceil_div,
    imported,
    load,
    loop,
    prim_func,
    splat,
)
from pocketformer.schedules.cpu.packing import default_panel, part_of_panel, told
from pocketformer.schedules.cpu.quantized_epilogue import QuantizedEpilogue
from pocketformer.schedules.cpu.spaces import (
    distinct,
    height,
    one_at_a_time,
    panels_of,
    parts_of,
    sharing_of,
    tiles_of,
)
from pocketformer.schedules.cpu.tiles import TASKS, Tiles, each_block, worth_sharing
from pocketformer.schedules.workloads import Linear, QuantizedLinear

if TYPE_CHECKING:
    from pocketformer.targets import Target

SHORT = {"bfloat16": "bf16", "float16": "f16", "int8": "i8"}
MOST_STEPS = 4     # that are unrolled where every height of a tile has code of its own
IN_FLIGHT = 8      # sums under way that hide the time which each takes


@dataclass(frozen=True)
class DotGemm:
    """A `rows` x `columns` tile; the k loop takes `unroll` groups at a time.

    The other choices are those of `Gemm`; how the weights lie depends on the instruction as well.
    """

    dot: str
    dtype: str
    rows: int
    columns: int
    panel: int
    unroll: int = 1
    ahead: int = 0
    tasks: int = TASKS
    by_rows: bool = False

    def named(self, workload: Linear | QuantizedLinear) -> str:
        """The kernel's name; different points for a workload have different ones."""
        dot = dot_named(self.dot, self.dtype)
        tile = f"{self.rows}x{self.columns}k{self.unroll * dot.group}"
        return f"{SHORT[self.dtype]}_gemm_{tile}_{self.dot}" + told(
            p=(self.panel, default_panel(dot, workload.n)),
            a=(self.ahead, prefetch.usual(self.columns, self.panel)),
            t=(self.tasks, TASKS)) + "_rows" * self.by_rows

    @property
    def layout(self) -> tuple[int, ...]:
        """How the weights lie: kernels for which it is equal can share them."""
        return (self.panel, dot_named(self.dot, self.dtype).group)

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Linear | QuantizedLinear) and workload.dtype in SHORT

    @classmethod
    def space(cls, target: Target, workload: Linear | QuantizedLinear) -> Iterator[DotGemm]:
        """Of every instruction for the workload, what `Gemm.space` yields; the default first.

        Raises LookupError where `target` has none.
        """
        cls.default(target, workload)
        m = workload.m
        for dot in dots_of(target, workload.dtype):
            tiles = (cls._of(dot, m, panel, *tile) for panel in panels_of(dot, workload.n)
                     for tile in (cls._best(dot, panel),
                                  *tiles_of(dot, target.vector_registers,
                                            parts_of(panel, dot.lanes), m, dot.matrix)))
            for point in distinct(tiles, lambda each: replace(each, rows=height(m, each.rows))):
                yield from one_at_a_time(point, {
                    "unroll": point._unrolls(),
                    "ahead": (0, 8, 16, 32),
                    **sharing_of(point.tiles(workload), m, target.threads)})

    @classmethod
    def default(cls, target: Target, workload: Linear | QuantizedLinear) -> DotGemm:
        """The best instruction of `target`, the tile that suits it.

        Raises LookupError where it has none for the workload's dtype.
        """
        dot = next(dots_of(target, workload.dtype), None)
        if dot is None:
            raise LookupError(f"{target.name} has no products of {workload.dtype}")
        return cls.best(dot, workload)

    @classmethod
    def best(cls, dot: Dot, workload: Linear | QuantizedLinear) -> DotGemm:
        """The best tile of the panels that waste little of `workload.n`; it depends on n alone."""
        panel = default_panel(dot, workload.n)
        return cls._of(dot, workload.m, panel, *cls._best(dot, panel))

    @classmethod
    def _of(cls, dot: Dot, m: int | None, panel: int, rows: int, columns: int) -> DotGemm:
        ahead = prefetch.usual(columns, panel)
        unroll = min(dot.unroll, MOST_STEPS) if m is None else dot.unroll
        return cls(dot.name, dot.dtype, rows, columns, panel, unroll, ahead)

    @staticmethod
    def _best(dot: Dot, panel: int) -> tuple[int, int]:
        return next(tile for tile in dot.tiles if panel % tile[1] == 0)

    def _unrolls(self) -> list[int]:
        """Those that a tile of all rows does not reach anyway by its several sums, and whose
        factors fit the stack where they are read as vectors of rows."""
        dot = dot_named(self.dot, self.dtype)
        tall = ceil_div(self.rows, dot.lanes) * dot.lanes
        factors = tall * dot.parts * _bytes(dot.word)
        return [each for each in (1, 2, 4, 8, 16) if each <= max(MOST_STEPS, dot.unroll)
                and (each == 1 or each > _ways(dot, self.rows, self.columns))
                and not (dot.by_lane and each * factors >= STACK)]

    def tiles(self, workload: Linear | QuantizedLinear) -> Tiles:
        """How the kernel covers the result."""
        layer = workload.in_float32 if isinstance(workload, QuantizedLinear) else workload
        strips = int(ceil_div(workload.n, self.columns))
        return Tiles(strips, self.rows, worth_sharing(layer), self.tasks, self.by_rows)

    def kernel(self, workload: Linear | QuantizedLinear, target: Target) -> Kernel:
        n, k, group = workload.n, workload.k, dot_named(self.dot, self.dtype).group
        return Kernel(
            self.named(workload),
            self.build(workload, target),
            lambda weight: pack_groups(weight, n, k, self.panel, group),
            grouped_shape(n, k, self.panel, group),
        )

    def build(self, workload: Linear | QuantizedLinear, target: Target) -> tirx.PrimFunc:
        """x[m, k], weight, the scales of integers, bias[n]?, residual[m, n]? -> out[m, n]."""
        return _Writer(self, workload).write()


class _Writer:
    """Writes one kernel."""

    def __init__(self, point: DotGemm, workload: Linear | QuantizedLinear) -> None:
        self.point, self.workload = point, workload
        self.dot: Dot = dot_named(point.dot, point.dtype)
        self.words = self.dot.group * _bytes(self.dot.dtype) // _bytes(self.dot.held)
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
                self.weight = T.decl_buffer(
                    (*shape[:2], point.panel * self.words), dot.held, data=weight.data)
                self.left: Left = left_of(dot, x, point.rows)
                if isinstance(self.end, QuantizedEpilogue) and self.left.range is not None:
                    self.end.take(self.left.range.scale, self.left.range.zero)
                each_block(m, point.rows, self._block)
        return function.func

    def _block(self, first: Expr, count: Expr) -> None:
        self.left.pack(self.tiles, first, count)

        def begin(strip: Expr) -> None:
            self.end.begin(strip, self.point.rows)

        def compute(strip: Expr, tile: Expr, row: Expr, rows: int) -> None:
            total = self._sums(strip, tile, row, first + row, rows)
            self.end.finish(total, strip, first + row, rows)

        self.tiles.walk(count, begin, compute)

    def _sums(self, strip: Expr, tile: Expr, row: Expr, x_row: Expr, rows: int) -> Tile:
        """What the epilogue starts with, and the products of a tile of x with a strip.

        The tile begins at `row` of the block and `x_row` of x.
        """
        dot, groups = self.dot, int(self.weight.shape[1])
        if isinstance(end := self.end, QuantizedEpilogue):
            # Its arguments have the rows of x, what the kernel finds itself those of the block.
            at_row = row if end.by_kernel else x_row
            sums = self._products(strip, tile, row, rows, 0, groups, lambda first: (
                end.start_sums(first, at_row, rows)))
            total = Tile(rows, self.point.columns, end.kept)
            for r, column in self._places(rows):
                total.store(end.result(self._sum(sums, r, column), r, column), r, column)
            return total
        if dot.sums == "float32" and not dot.matrix:
            return self._products(strip, tile, row, rows, 0, groups, lambda first: (
                self.end.start(first, rows)))
        total = Tile(rows, self.point.columns)
        self.end.start(total, rows)
        block = dot.block or groups

        def add(at: Any, count: int) -> None:
            sums = self._products(strip, tile, row, rows, at, count)
            for r, column in self._places(rows):
                total.add(self._sum(sums, r, column).astype(f"float32x{dot.lanes}"), r, column)

        if groups > block:
            with loop(groups // block) as number:
                add(number * block, block)
        if rest := groups % block or (groups if groups <= block else 0):
            add(groups - rest, rest)
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
        """The sums of the products of `count` groups of k from `at` on; `start` begins the first.

        With matrices, a tile of pairs of rows and twice the columns.
        """
        dot, columns = self.dot, self.point.columns
        high, wide = (ceil_div(rows, 2), 2 * columns) if dot.matrix else (rows, columns)
        sums = [Tile(high, wide, dot.sums) for _ in range(_ways(dot, rows, columns))]
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
        self, strip: Expr, tile: Expr, row: Expr, rows: int, first: Any, groups: int,
        sums: list[Tile],
    ) -> None:
        """Add the products of `groups` groups of k from `first` on, in turn to each of `sums`."""
        unroll = max(self.point.unroll, len(sums))
        width = self.point.columns * self.words
        panel, start = part_of_panel(strip, width, self.point.panel * self.words)
        wide = range(0, width, self.dot.lanes)

        def steps(at: Any, count: int) -> None:
            left = self.left.read(tile, row, rows, at, count)
            for step in range(count):
                total = sums[step % len(sums)]
                words = [load(self.weight, panel, at + step, start + column, lanes=self.dot.lanes)
                         for column in wide]
                if self.point.ahead:
                    prefetch.prefetch(
                        self.weight, panel, at + step, start, width, self.point.ahead)
                right = [self._parts(word) for word in words]
                for part, factors in enumerate(left[step]):
                    for r, factor in enumerate(factors):
                        for column, each in zip(wide, right, strict=True):
                            before = total.load(r, column, self.dot.lanes)
                            total.store(self.dot.add(before, factor, each[part]), r, column)

        with loop(groups // unroll) as step:
            steps(first + step * unroll, unroll)
        if groups % unroll:
            steps(first + groups // unroll * unroll, groups % unroll)

    def _parts(self, words: Expr) -> list[Expr]:
        parts = self.dot.right(words)
        return parts if len(parts) == 1 else [T.bind(part) for part in parts]


def _ways(dot: Dot, rows: int, columns: int) -> int:
    """How many sums of everything there are, so that enough are in flight."""
    high, wide = (ceil_div(rows, 2), 2 * columns) if dot.matrix else (rows, columns)
    return int(ceil_div(IN_FLIGHT, high * wide // dot.lanes))


def _of_matrices(sums: Tile, row: int, column: int) -> Expr:
    """Four columns of a row, of two by two sums."""
    pair = [sums.load(row // 2, 2 * column + at, 4) for at in (0, 4)]
    first = 2 * (row % 2)
    return tirx.Shuffle(pair, [first, first + 1, first + 4, first + 5])


def _bytes(dtype: str) -> int:
    return int(DataType(dtype).itemsize)
