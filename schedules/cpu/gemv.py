"""A linear layer for one row: limited by memory, so weights are read once, in order, and wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx

from pocketformer.schedules.cpu import prefetch
from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.intrinsics import Isa, isa_named, isa_of
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
)
from pocketformer.schedules.cpu.packing import (
    default_panel,
    pack,
    packed_shape,
    part_of_panel,
    told,
)
from pocketformer.schedules.cpu.spaces import one_at_a_time, panels_of, parts_of
from pocketformer.schedules.workloads import Linear

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16     # weights: some 5 us of one core
WAYS = 4                    # steps of k at a time


@dataclass(frozen=True)
class Gemv:
    """`columns` of a panel at a time, with `ways` sums of each.

    `panel`, a multiple of `columns`, must be the same for all kernels that share the weights, which
    are asked for `ahead` steps before their use, 0: not at all.
    """

    isa: str
    columns: int
    panel: int
    ways: int
    ahead: int = 0

    def named(self, workload: Linear) -> str:
        """The kernel's name; different points for a workload have different ones."""
        isa = isa_named(self.isa)
        name = f"f32_gemv_1x{self.columns}k{max(self.ways, WAYS)}_{self.isa}"
        return name + told(p=(self.panel, default_panel(isa, workload.n)),
                           w=(self.ways, _ways(isa, self.columns)), a=(self.ahead, 0))

    @property
    def layout(self) -> tuple[int, ...]:
        """How the weights lie: kernels for which it is equal can share them."""
        return (self.panel,)

    @staticmethod
    def matches(workload: object) -> bool:
        return (
            isinstance(workload, Linear) and workload.m == 1 and workload.dtype == "float32"
        )

    @classmethod
    def space(cls, target: Target, workload: Linear) -> Iterator[Gemv]:
        """The default, then every panel that wastes little, whole and in parts."""
        isa = isa_of(target)
        for panel in panels_of(isa, workload.n):
            for columns in parts_of(panel, isa.lanes):
                vectors = columns // isa.lanes
                if vectors + 2 <= isa.registers:
                    yield from one_at_a_time(cls(isa.name, columns, panel, _ways(isa, columns)), {
                        "ways": [each for each in (1, 2, 4, 8)
                                 if each * vectors + 2 <= isa.registers],
                        "ahead": (0, 16, 32, 64)})

    @classmethod
    def default(cls, target: Target, workload: Linear) -> Gemv:
        isa = isa_of(target)
        panel = default_panel(isa, workload.n)
        return cls(isa.name, panel, panel, _ways(isa, panel))

    def kernel(self, workload: Linear, target: Target) -> Kernel:
        n, k = workload.n, workload.k
        return Kernel(
            self.named(workload),
            self.build(workload, target),
            lambda weight: pack(weight, n, k, self.panel),
            packed_shape(n, k, self.panel),
        )

    def build(self, workload: Linear, target: Target) -> tirx.PrimFunc:
        """x[1, k], weight, bias[n]?, residual[1, n]? -> out[1, n]."""
        n, k = workload.n, workload.k
        isa = isa_named(self.isa)
        strips = ceil_div(n, self.columns)
        with prim_func(self.named(workload)) as function:
            x = function.argument("x", (1, k))
            weight = function.argument("weight", packed_shape(n, k, self.panel))
            end = Epilogue(function, workload, 1, self.columns, isa.lanes)
            with (imported(prefetch.LLVM if self.ahead else ""),
                  parallel_loop(strips, n * k >= WORTH_SHARING) as strip):
                end.begin(strip, 1)
                panel, start = part_of_panel(strip, self.columns, self.panel)

                def right(at: Expr, column: int, lanes: int) -> Expr:
                    if self.ahead and column == 0:
                        prefetch.prefetch(weight, panel, at, start, self.columns, self.ahead)
                    return load(weight, panel, at, start + column, lanes=lanes)

                total = single_row(isa, x, 0, self.columns, end, right, self.ways)
                end.finish(total, strip, 0, 1)
        return function.func


def _ways(isa: Isa, columns: int) -> int:
    """How many sums of each of `columns` registers hold, no more than needed."""
    vectors = columns // isa.lanes
    return next(ways for ways in (WAYS, 2, 1) if ways * vectors + 2 <= isa.registers)


def single_row(
    isa: Isa, x: Buffer, row: Expr, columns: int, end: Epilogue,
    right: Callable[[Expr, int, int], Expr], ways: int | None = None,
) -> Tile:
    """The sums of x[row] @ `columns` columns, begun by `end`.

    `right(at, column, lanes)` is a vector of the weights of step `at` of k. Each column has `ways`
    sums, as one would wait for its own last addition, but all in registers.
    """
    k = int(x.shape[1])
    ways = ways or _ways(isa, columns)
    steps = max(ways, WAYS)
    sums = Tile(ways, columns)
    for way in range(ways):
        for column in range(0, columns, isa.lanes):
            sums.store(splat(0.0, isa.lanes), way, column)

    def add(at: Any, way: int, number: Expr) -> None:
        for column in range(0, columns, isa.lanes):
            sums.add(splat(number, isa.lanes) * right(at, column, isa.lanes), way, column)

    with loop(k // steps) as step:
        held = registers(steps)
        store(held, load(x, row, step * steps, lanes=steps), 0)
        for u in range(steps):
            number = held[u] if isa.by_lane else x[row, step * steps + u]
            add(step * steps + u, u % ways, number)
    for last in range(k // steps * steps, k):
        add(last, last % ways, x[row, last])
    total = Tile(1, columns)
    end.start(total, 1)
    for column in range(0, columns, isa.lanes):
        parts = [sums.load(way, column, isa.lanes) for way in range(ways)]
        while len(parts) > 1:
            parts = [parts[i] + parts[i + 1] for i in range(0, len(parts), 2)]
        total.add(parts[0], 0, column)
    return total
