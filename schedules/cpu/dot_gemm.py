"""Linear layers with weights of short numbers, by the machine's instructions for their products.

As in gemm.py, a tile of the result stays in registers while panels of packed weights stream by. The
rows of x are rounded and packed first, a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import DataType, tirx

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.dot_gemm_writer import DotGemmWriter, ways
from pocketformer.schedules.cpu.dot_table import dot_named, dots_of
from pocketformer.schedules.cpu.group_packing import grouped_shape, pack_groups
from pocketformer.schedules.cpu.kernel import STACK, Kernel, ceil_div
from pocketformer.schedules.cpu.packing import default_panel, told
from pocketformer.schedules.cpu.spaces import (
    distinct,
    height,
    one_at_a_time,
    panels_of,
    parts_of,
    sharing_of,
    tiles_of,
)
from pocketformer.schedules.cpu.tiles import TASKS, Tiles, worth_sharing
from pocketformer.schedules.workloads import Linear, QuantizedLinear

if TYPE_CHECKING:
    from pocketformer.targets import Target

SHORT = {"bfloat16": "bf16", "float16": "f16", "int8": "i8"}
MOST_STEPS = 4     # that are unrolled where every height of a tile has code of its own


@dataclass(frozen=True)
class DotGemm:
    """A `rows` x `columns` tile; the k loop takes what `unroll` instructions do at a time.

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
        tile = f"{self.rows}x{self.columns}k{self.unroll * dot.depth * dot.group}"
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
        for dot in cls._dots(target, workload):
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
        dots = cls._dots(target, workload)
        if not dots:
            raise LookupError(f"{target.name} has no products of {workload.dtype}")
        return cls.best(dots[0], workload)

    @staticmethod
    def _dots(target: Target, workload: Linear | QuantizedLinear) -> list[Dot]:
        """The instructions of `target`, the best first; a row alone would leave half of each matrix
        empty."""
        return sorted(dots_of(target, workload.dtype),
                      key=lambda dot: dot.matrix and workload.m == 1)

    @classmethod
    def best(cls, dot: Dot, workload: Linear | QuantizedLinear) -> DotGemm:
        """The best tile of the panels that waste little of `workload.n`; it depends on n alone."""
        panel = default_panel(dot, workload.n)
        return cls._of(dot, workload.m, panel, *cls._best(dot, panel))

    @classmethod
    def _of(cls, dot: Dot, m: int | None, panel: int, rows: int, columns: int) -> DotGemm:
        ahead = prefetch.usual(columns, panel)
        unroll = min(dot.unroll, MOST_STEPS) if m is None else dot.unroll
        point = cls(dot.name, dot.dtype, rows, columns, panel, unroll, ahead)
        return replace(point, unroll=min(unroll, max(point._unrolls())))

    @staticmethod
    def _best(dot: Dot, panel: int) -> tuple[int, int]:
        return next(tile for tile in dot.tiles if panel % tile[1] == 0)

    def _unrolls(self) -> list[int]:
        """Those that a tile of all rows does not reach anyway by its several sums, and whose
        factors fit the stack where they are read as vectors of rows."""
        dot = dot_named(self.dot, self.dtype)
        tall = ceil_div(self.rows, dot.lanes) * dot.lanes
        factors = tall * dot.parts * int(DataType(dot.word).itemsize)
        return [each for each in (1, 2, 4, 8, 16) if each <= max(MOST_STEPS, dot.unroll)
                and (each == 1 or each > ways(dot, self.rows, self.columns))
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
        return DotGemmWriter(self, workload).write()
