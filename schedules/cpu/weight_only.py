"""Linear layers with small weights: read once and in order, made float32 again in registers.

For one row that is limited by memory: a weight of 4 bits takes an eighth of the time of a float32
one, if the processor keeps up. Several rows share what was made of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import tirx

from pocketformer.schedules.cpu.dot import Int8Dot
from pocketformer.schedules.cpu.dot_table import dot_named, dots_of
from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.intrinsics import Isa, isa_named, isa_of
from pocketformer.schedules.cpu.kernel import Expr, Kernel, Tile, ceil_div, imported, prim_func
from pocketformer.schedules.cpu.packing import default_panel, part_of_panel, told
from pocketformer.schedules.cpu.spaces import one_at_a_time, panels_of, parts_of
from pocketformer.schedules.cpu.tiles import Tiles, block_rows, each_block, hidden, worth_sharing
from pocketformer.schedules.cpu.weight_formats import (
    DTYPE,
    pack_scale,
    pack_weight,
    scale_shape,
    weight_shape,
)
from pocketformer.schedules.cpu.weight_products import (
    Arguments,
    Int4Products,
    Int8Products,
    Products,
    Strip,
)
from pocketformer.schedules.cpu.whole_products import WholeProducts
from pocketformer.schedules.workloads import Linear, WeightOnlyLinear

if TYPE_CHECKING:
    from pocketformer.targets import Target


@dataclass(frozen=True)
class WeightOnly:
    """At most `rows` rows of `columns` columns at a time.

    `panel`, a multiple of `columns`, decides how the weights lie, so it must be the same for all
    kernels that share them. `dot` names the instruction that sums products of whole numbers.
    """

    isa: str
    rows: int
    columns: int
    panel: int
    dot: str = ""

    @property
    def layout(self) -> tuple[int, ...]:
        """How the weights lie: kernels for which it is equal can share them."""
        return (self.panel,)

    def named(self, work: WeightOnlyLinear) -> str:
        """The kernel's name."""
        x = "i8" if work.round_x else "f32"
        kind = "gemv" if work.m == 1 else "gemm"
        name = f"{x}_i{work.bits}w_{kind}_{self.rows}x{self.columns}_{self.dot or self.isa}"
        return name + told(p=(self.panel, default_panel(isa_named(self.isa), work.n)))

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, WeightOnlyLinear)

    @classmethod
    def space(cls, target: Target, workload: WeightOnlyLinear) -> Iterator[WeightOnly]:
        """The default, then every panel that wastes little in strips of every width, with as many
        rows as registers hold and with one."""
        isa = isa_of(target)
        for panel in panels_of(isa, workload.n):
            for columns in _strips(isa, panel, workload.m):
                yield from one_at_a_time(
                    cls._of(target, workload, panel, columns), {"rows": [1]})

    @classmethod
    def default(cls, target: Target, workload: WeightOnlyLinear) -> WeightOnly:
        """The panels of float32 layers; they depend on n alone, and on the processor's family."""
        isa = isa_of(target)
        panel = default_panel(isa, workload.n)
        return cls._of(target, workload, panel, _strips(isa, panel, workload.m)[0])

    @classmethod
    def _of(
        cls, target: Target, workload: WeightOnlyLinear, panel: int, columns: int
    ) -> WeightOnly:
        dot = next(dot for dot in dots_of(target, "int8") if not dot.matrix)
        # Without an instruction for it, float32 products of an exact x are faster than whole ones.
        whole = workload.round_x or isinstance(dot, Int8Dot)
        point = cls(isa_of(target).name, 1, columns, panel, dot.name if whole else "")
        rows = 1 if workload.m == 1 else point.products(workload).rows
        return replace(point, rows=rows)

    def products(self, work: WeightOnlyLinear) -> Products:
        """How rows are multiplied."""
        isa = isa_named(self.isa)
        if self.dot:
            dot = dot_named(self.dot, "int8")
            return WholeProducts(isa, work, self.columns, self.panel, dot)
        kind = Int8Products if work.bits == 8 else Int4Products
        return kind(isa, work, self.columns, self.panel)

    def kernel(self, workload: WeightOnlyLinear, target: Target) -> Kernel:
        return Kernel(
            self.named(workload),
            self.build(workload, target),
            lambda weight: pack_weight(weight, workload, self.panel),
            weight_shape(workload, self.panel),
            lambda scale: pack_scale(scale, workload, self.panel),
        )

    def build(self, workload: WeightOnlyLinear, target: Target) -> tirx.PrimFunc:
        """x[m, k], weight, scale, bias[n]?, residual[m, n]? -> out[m, n]."""
        work, isa = workload, isa_named(self.isa)
        plain = Linear(work.m, work.n, work.k, work.bias, work.activation, work.residual)
        tiles = Tiles(ceil_div(work.n, self.columns), self.rows, worth_sharing(plain))
        with prim_func(self.named(work)) as function:
            m = function.size("m", work.m)
            arguments = Arguments(
                function.argument("x", (m, work.k)),
                function.argument("weight", weight_shape(work, self.panel), DTYPE[work.bits]),
                function.argument("scale", scale_shape(work, self.panel)),
            )
            end = Epilogue(function, plain, m, self.columns, isa.lanes)
            products = self.products(work)

            def block(first: Expr, count: Expr) -> None:
                products.prepare(first, count)

                def compute(strip: Expr, tile: Expr, row: Expr, rows: int) -> None:
                    if isinstance(m, int) and m % self.rows:
                        # Of two tiles of different heights TVM solves which one it is, and trips.
                        row = hidden(row)
                    total = Tile(rows, self.columns)
                    end.start(total, rows)
                    place = Strip(*part_of_panel(strip, self.columns, self.panel))
                    products.add(total, place, row, rows)
                    end.finish(total, strip, first + row, rows)

                tiles.walk(count, lambda strip: end.begin(strip, self.rows), compute)

            with imported(products.imports):
                products.begin(arguments, block_rows(m, self.rows))
                each_block(m, self.rows, block)
        return function.func


def _strips(isa: Isa, panel: int, m: int | None) -> list[int]:
    """How many columns of a panel may be computed at a time, the best number first.

    One row is limited by memory: the wider the strips of which registers hold four sums a column,
    the nearer to its order weights are read.
    """
    if m == 1:
        widest = isa.registers * 3 // 4 // 4 * isa.lanes
        return [columns for columns in parts_of(panel, isa.lanes) if columns <= widest]
    return [columns for _, columns in isa.tiles if panel % columns == 0]
