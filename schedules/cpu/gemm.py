"""Linear layers: a tile of the result stays in registers while panels of packed weights stream by.

Rows of x are read where they lie, the last few by lower tiles down to a single row. Where the
instruction set multiplies by a lane of a register (Arm), they are first packed, so that one load
brings the same k of several rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import tirx

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.gemm_writer import GemmWriter
from pocketformer.schedules.cpu.intrinsics import Isa, isa_named, isa_of
from pocketformer.schedules.cpu.kernel import Kernel, ceil_div
from pocketformer.schedules.cpu.packing import default_panel, pack, packed_shape, told
from pocketformer.schedules.cpu.spaces import (
    distinct,
    height,
    one_at_a_time,
    panels_of,
    parts_of,
    sharing_of,
    tiles_of,
)
from pocketformer.schedules.cpu.tiles import TASKS, Tiles, block_rows, worth_sharing
from pocketformer.schedules.workloads import Linear

if TYPE_CHECKING:
    from pocketformer.targets import Target

FLOAT = 4                # bytes
STEP = 32                # of k: blocks are multiples of it, and so of every `unroll`
MOST_SUMS = 64 * 1024    # bytes of unfinished sums that a task may keep


@dataclass(frozen=True)
class Gemm:
    """A `rows` x `columns` tile; the k loop takes `unroll` steps at a time.

    `panel`, a multiple of `columns`, decides how the weights lie, so it must be the same for all
    kernels that share them. Weights are asked for `ahead` steps before their use, 0: not at all.
    `tasks` and `by_rows` say how threads share the tiles, as in `Tiles`. With `k_block`, a task
    goes over its tiles once for every so many steps of k, of which it finds the weights in a cache;
    no other template has such blocks.
    """

    isa: str
    rows: int
    columns: int
    panel: int
    unroll: int = 1
    ahead: int = 0
    tasks: int = TASKS
    by_rows: bool = False
    k_block: int = 0

    def named(self, workload: Linear) -> str:
        """The kernel's name; different points for a workload have different ones."""
        panel = default_panel(isa_named(self.isa), workload.n)
        return f"f32_gemm_{self.rows}x{self.columns}k{self.unroll}_{self.isa}" + told(
            p=(self.panel, panel), a=(self.ahead, prefetch.usual(self.columns, self.panel)),
            kb=(self.k_block, 0), t=(self.tasks, TASKS)) + "_rows" * self.by_rows

    @property
    def layout(self) -> tuple[int, ...]:
        """How the weights lie: kernels for which it is equal can share them."""
        return (self.panel,)

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Linear) and workload.dtype == "float32"

    @classmethod
    def space(cls, target: Target, workload: Linear) -> Iterator[Gemm]:
        """The default, then every panel that wastes little with every tile that fits registers.

        The first point of a panel has the tile that suits it best.
        """
        isa, m = isa_of(target), workload.m
        tiles = (cls._of(isa, panel, *tile) for panel in panels_of(isa, workload.n)
                 for tile in (cls._best(isa, panel),
                              *tiles_of(isa, isa.registers, parts_of(panel, isa.lanes), m)))
        for point in distinct(tiles, lambda each: replace(each, rows=height(m, each.rows))):
            yield from one_at_a_time(point, {
                "unroll": (2, 4, 8) if isa.by_lane else (1, 2, 4),
                "ahead": (0, 8, 16, 32),
                "k_block": point._k_blocks(target, workload),
                **sharing_of(point.tiles(workload), m, target.threads)})

    @classmethod
    def default(cls, target: Target, workload: Linear) -> Gemm:
        """The best tile of the panels that waste little of `workload.n`."""
        isa = isa_of(target)
        panel = default_panel(isa, workload.n)
        return cls._of(isa, panel, *cls._best(isa, panel))

    @classmethod
    def _of(cls, isa: Isa, panel: int, rows: int, columns: int) -> Gemm:
        return cls(isa.name, rows, columns, panel, isa.unroll, prefetch.usual(columns, panel))

    @staticmethod
    def _best(isa: Isa, panel: int) -> tuple[int, int]:
        return next(tile for tile in isa.tiles if panel % tile[1] == 0)

    def _k_blocks(self, target: Target, workload: Linear) -> list[int]:
        """Those of which the weights of a strip fit a cache; more than one, for several tiles."""
        isa, m, tiles = isa_named(self.isa), workload.m, self.tiles(workload)
        if m is None or (isa.by_lane and m > block_rows(m, self.rows)):
            return []
        sums = tiles.per_group(m) * self.rows * self.columns * FLOAT
        if tiles.per_group(m) == 1 or height(m, self.rows) == 1 or sums > MOST_SUMS:
            return []
        blocks = {size // (self.columns * FLOAT) // STEP * STEP
                  for size in (target.l1d // 2, target.l1d, target.l2 // 2)}
        return sorted(block for block in blocks if 0 < block < 0.75 * workload.k)

    def tiles(self, workload: Linear) -> Tiles:
        """How the kernel covers the result."""
        strips = int(ceil_div(workload.n, self.columns))
        return Tiles(strips, self.rows, worth_sharing(workload), self.tasks, self.by_rows)

    def kernel(self, workload: Linear, target: Target) -> Kernel:
        n, k = workload.n, workload.k
        return Kernel(
            self.named(workload),
            self.build(workload, target),
            lambda weight: pack(weight, n, k, self.panel),
            packed_shape(n, k, self.panel),
        )

    def build(self, workload: Linear, target: Target) -> tirx.PrimFunc:
        """x[m, k], weight, bias[n]?, residual[m, n]? -> out[m, n]."""
        return GemmWriter(self, workload).write()
