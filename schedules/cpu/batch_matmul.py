"""Products of two activations, batch by batch: the right one is laid out as panels first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    Tile,
    ceil_div,
    load,
    loop,
    parallel_loop,
    prim_func,
    registers,
    splat,
    store,
    when,
    workspace,
)
from pocketformer.schedules.cpu.spaces import one_at_a_time, tiles_of, widths_of
from pocketformer.schedules.workloads import BatchMatmul

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 17     # multiply-adds
UNKNOWN = 64                # what a size known only at run time is taken for


@dataclass(frozen=True)
class TiledBatchMatmul:
    """A `rows` x `columns` tile of the result in registers; `unroll` steps of k at a time."""

    isa: str
    rows: int
    columns: int
    unroll: int = 1

    @property
    def name(self) -> str:
        steps = f"k{self.unroll}" if self.unroll > 1 else ""
        return f"f32_batch_matmul_{self.rows}x{self.columns}{steps}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, BatchMatmul)

    @classmethod
    def space(cls, target: Target, workload: BatchMatmul) -> Iterator[TiledBatchMatmul]:
        """The default, then every tile that fits registers and wastes little of `workload.n`."""
        isa, m = replace(isa_of(target), by_lane=False), workload.m     # numbers are broadcast
        tiles = tiles_of(isa, isa.registers, widths_of(isa.lanes, workload.n), m)
        points = [cls.default(target, workload), *(cls(isa.name, *tile) for tile in tiles)]
        for point in dict.fromkeys(points):
            yield from one_at_a_time(point, {"unroll": (1, 2, 4)})

    @classmethod
    def default(cls, target: Target, workload: BatchMatmul) -> TiledBatchMatmul:
        isa = isa_of(target)
        n = workload.n or UNKNOWN
        rows, columns = min(isa.tiles, key=lambda tile: ceil_div(n, tile[1]) * tile[1])
        return cls(isa.name, rows, columns)

    def kernel(self, workload: BatchMatmul, target: Target) -> Kernel:
        return Kernel(self.name, self.build(workload, target))

    def build(self, workload: BatchMatmul, target: Target) -> tirx.PrimFunc:
        """a[batch, m, k], b[batch, k, n] or [batch, n, k] -> out[batch, m, n]."""
        work = workload
        sizes = (work.batch, work.m, work.n, work.k)
        with prim_func(self.name) as function:
            batch, m, n, k = map(function.size, ("batch", "m", "n", "k"), sizes)
            a = function.argument("a", (batch, m, k))
            b = function.argument("b", (batch, n, k) if work.transpose_b else (batch, k, n))
            out = function.argument("out", (batch, m, n))
            amount = 1
            for size in sizes:
                amount *= size or UNKNOWN
            share = amount >= WORTH_SHARING
            panels = ceil_div(n, self.columns)
            packed = workspace(batch, panels, k, self.columns)
            with parallel_loop(batch * panels, share) as task:
                self._pack(work.transpose_b, b, packed, task // panels, task % panels, n, k)
            tiles = ceil_div(m, self.rows)
            with parallel_loop(batch * panels * tiles, share) as task:
                self._tile(a, packed, out, task // tiles // panels, task // tiles % panels,
                           task % tiles * self.rows)
        return function.func

    def _pack(
        self, transposed: bool, b: Buffer, packed: Buffer, batch: Expr, panel: Expr,
        n: Expr, k: Expr,
    ) -> None:
        """One panel; columns past the end hold whatever the last one does and are never stored."""
        lanes = isa_named(self.isa).lanes
        first = panel * self.columns

        def singly() -> None:
            with loop(k) as at, loop(self.columns) as column:
                source = tirx.min(first + column, n - 1)
                value = b[batch, source, at] if transposed else b[batch, at, source]
                store(packed, value, batch, panel, at, column)

        if transposed:
            singly()
            return
        with T.If(first + self.columns <= n):
            with T.Then(), loop(k) as at:
                for column in range(0, self.columns, lanes):
                    store(packed, load(b, batch, at, first + column, lanes=lanes),
                          batch, panel, at, column)
            with T.Else():
                singly()

    def _tile(
        self, a: Buffer, packed: Buffer, out: Buffer, batch: Expr, panel: Expr, row: Expr
    ) -> None:
        lanes = isa_named(self.isa).lanes
        _, m, n = out.shape
        k = a.shape[2]
        staged = registers(self.columns)
        sums = Tile(self.rows, self.columns)
        for r in range(self.rows):
            for column in range(0, self.columns, lanes):
                sums.store(splat(0.0, lanes), r, column)

        def step(at: Expr) -> None:
            for r in range(self.rows):
                number = splat(a[batch, tirx.min(row + r, m - 1), at], lanes)
                for column in range(0, self.columns, lanes):
                    right = load(packed, batch, panel, at, column, lanes=lanes)
                    sums.add(number * right, r, column)

        whole = k // self.unroll
        with loop(whole) as at:
            for u in range(self.unroll):
                step(at * self.unroll + u if self.unroll > 1 else at)
        if self.unroll > 1:
            with loop(k % self.unroll) as at:
                step(whole * self.unroll + at)
        first = panel * self.columns
        for r in range(self.rows):
            with when(row + r < m), T.If(first + self.columns <= n):
                with T.Then():
                    for column in range(0, self.columns, lanes):
                        store(out, sums.load(r, column, lanes), batch, row + r, first + column)
                with T.Else():
                    for column in range(0, self.columns, lanes):
                        store(staged, sums.load(r, column, lanes), column)
                    with loop(n - first) as column:
                        store(out, staged[column], batch, row + r, first + column)
