"""A linear layer for one row: limited by memory, so weights are read once, in order, and wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tvm import tirx

from pocketformer.schedules.cpu.epilogue import Epilogue
from pocketformer.schedules.cpu.intrinsics import Isa, isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    Tile,
    load,
    loop,
    parallel_loop,
    prim_func,
    registers,
    splat,
    store,
)
from pocketformer.schedules.cpu.packing import default_panel, pack, packed_shape
from pocketformer.schedules.workloads import Linear

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16     # weights: some 5 us of one core
WAYS = 4                    # steps of k at a time


@dataclass(frozen=True)
class Gemv:
    """A panel of `columns` at a time, the same for all kernels that share the weights."""

    isa: str
    columns: int

    @property
    def name(self) -> str:
        return f"f32_gemv_1x{self.columns}k{WAYS}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return (
            isinstance(workload, Linear) and workload.m == 1 and workload.dtype == "float32"
        )

    @classmethod
    def space(cls, target: Target, workload: Linear) -> Iterator[Gemv]:
        isa = isa_of(target)
        for columns in sorted(isa.panels):
            yield cls(isa.name, columns)

    @classmethod
    def default(cls, target: Target, workload: Linear) -> Gemv:
        isa = isa_of(target)
        return cls(isa.name, default_panel(isa, workload.n))

    def kernel(self, workload: Linear, target: Target) -> Kernel:
        n, k = workload.n, workload.k
        return Kernel(
            self.name,
            self.build(workload, target),
            lambda weight: pack(weight, n, k, self.columns),
            packed_shape(n, k, self.columns),
        )

    def build(self, workload: Linear, target: Target) -> tirx.PrimFunc:
        """x[1, k], weight, bias[n]?, residual[1, n]? -> out[1, n]."""
        n, k = workload.n, workload.k
        isa = isa_named(self.isa)
        shape = packed_shape(n, k, self.columns)
        with prim_func(self.name) as function:
            x = function.argument("x", (1, k))
            weight = function.argument("weight", shape)
            end = Epilogue(function, workload, 1, self.columns, isa.lanes)
            with parallel_loop(shape[0], n * k >= WORTH_SHARING) as panel:
                end.begin(panel, 1)
                total = single_row(isa, x, 0, self.columns, end, partial(_read, weight, panel))
                end.finish(total, panel, 0, 1)
        return function.func


def _read(weight: Buffer, panel: Expr, at: Expr, column: int, lanes: int) -> Expr:
    return load(weight, panel, at, column, lanes=lanes)


def single_row(
    isa: Isa, x: Buffer, row: Expr, columns: int, end: Epilogue,
    right: Callable[[Expr, int, int], Expr],
) -> Tile:
    """The sums of x[row] @ `columns` columns, begun by `end`.

    `right(at, column, lanes)` is a vector of the weights of step `at` of k.
    """
    k = int(x.shape[1])
    # Several sums a column, as one would wait for its own last addition; but all in registers.
    vectors = columns // isa.lanes
    ways = next(ways for ways in (WAYS, 2, 1) if ways * vectors + 2 <= isa.registers)
    sums = Tile(ways, columns)
    for way in range(ways):
        for column in range(0, columns, isa.lanes):
            sums.store(splat(0.0, isa.lanes), way, column)

    def add(at: Any, way: int, number: Expr) -> None:
        for column in range(0, columns, isa.lanes):
            sums.add(splat(number, isa.lanes) * right(at, column, isa.lanes), way, column)

    with loop(k // WAYS) as step:
        held = registers(WAYS)
        store(held, load(x, row, step * WAYS, lanes=WAYS), 0)
        for u in range(WAYS):
            number = held[u] if isa.by_lane else x[row, step * WAYS + u]
            add(step * WAYS + u, u % ways, number)
    for last in range(k // WAYS * WAYS, k):
        add(last, last % ways, x[row, last])
    total = Tile(1, columns)
    end.start(total, 1)
    for column in range(0, columns, isa.lanes):
        parts = [sums.load(way, column, isa.lanes) for way in range(ways)]
        while len(parts) > 1:
            parts = [parts[i] + parts[i + 1] for i in range(0, len(parts), 2)]
        total.add(parts[0], 0, column)
    return total
