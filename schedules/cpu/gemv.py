"""A linear layer for one row: limited by memory, so weights are read once, in order, and wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from pocketformer.schedules.cpu.packing import default_tile, pack, packed_shape
from pocketformer.schedules.workloads import Linear

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16     # weights: some 5 us of one core
WAYS = 4                    # sums a column; a single one would wait for its own last addition


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
        for columns in sorted({columns for _, columns in isa.tiles}):
            yield cls(isa.name, columns)

    @classmethod
    def default(cls, target: Target, workload: Linear) -> Gemv:
        isa = isa_of(target)
        return cls(isa.name, default_tile(isa, workload.n)[1])

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
                end.finish(single_row(isa, x, 0, weight, panel, end), panel, 0, 1)
        return function.func


def single_row(
    isa: Isa, x: Buffer, row: Expr, weight: Buffer, panel: Expr, end: Epilogue
) -> Tile:
    """The sums of x[row] @ one panel, begun by `end`."""
    _, k, columns = map(int, weight.shape)
    sums = Tile(WAYS, columns)
    for way in range(WAYS):
        for column in range(0, columns, isa.lanes):
            sums.store(splat(0.0, isa.lanes), way, column)

    def add(at: Any, way: int, number: Expr) -> None:
        for column in range(0, columns, isa.lanes):
            right = load(weight, panel, at, column, lanes=isa.lanes)
            sums.add(splat(number, isa.lanes) * right, way, column)

    with loop(k // WAYS) as step:
        held = registers(WAYS)
        store(held, load(x, row, step * WAYS, lanes=WAYS), 0)
        for way in range(WAYS):
            number = held[way] if isa.by_lane else x[row, step * WAYS + way]
            add(step * WAYS + way, way, number)
    for last in range(k // WAYS * WAYS, k):
        add(last, last % WAYS, x[row, last])
    total = Tile(1, columns)
    end.start(total, 1)
    for column in range(0, columns, isa.lanes):
        parts = [sums.load(way, column, isa.lanes) for way in range(WAYS)]
        total.add((parts[0] + parts[1]) + (parts[2] + parts[3]), 0, column)
    return total
