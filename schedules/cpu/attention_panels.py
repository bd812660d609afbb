"""Keys and values of one head, copied to where they lie close together for all its tiles.

In the model's arrays the rows of a head are as far apart as all heads are long: a few hundred of
them fall into the same sets of a cache and need a page each.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    ceil_div,
    load,
    loop,
    registers,
    store,
    transpose,
    workspace,
)


class Keys:
    """[panel, d, key of the panel] where the instruction set multiplies by a lane of a register
    (Arm), else [key, d]. A chunk of `width` keys begins every `width` keys; the last one is moved
    back to end with the last key.
    """

    def __init__(self, inputs: Inputs, isa: Isa, width: int) -> None:
        self.inputs, self.isa, self.width = inputs, isa, width
        size = inputs.workload.head_size
        shape = (ceil_div(inputs.kv_len, width), size, width) if isa.by_lane else (
            inputs.kv_len, size)
        self.buffer = workspace(*shape)

    def first(self, chunk: Expr) -> Expr:
        """The key that a chunk begins with."""
        return tirx.min(chunk * self.width, self.inputs.kv_len - self.width)

    def fill(self, batch: Expr, head: Expr) -> None:
        inputs, lanes, size = self.inputs, self.isa.lanes, self.inputs.workload.head_size
        if not self.isa.by_lane:
            copy(self.buffer, inputs.kv_len, size, lanes,
                 lambda at, d, width: inputs.k(batch, at, head, d, width))
            return
        with loop(ceil_div(inputs.kv_len, self.width)) as panel:
            for column in range(0, self.width, lanes):
                def key(i: int, d: Expr, width: int, column: int = column) -> Expr:
                    return inputs.k(batch, self.first(panel) + column + i, head, d, width)

                turn(self.buffer, column, size, lanes, key, panel)

    def numbers(self, chunk: Expr, key: Expr, d: Expr, steps: int) -> list[list[Expr]]:
        """For `steps` numbers from d on those of all keys of a chunk, which begins at `key`."""
        if not self.isa.by_lane:
            return [[self.buffer[key + i, d + u] for i in range(self.width)]
                    for u in range(steps)]
        near, lanes = registers(steps, self.width), self.isa.lanes
        for u in range(steps):
            for i in range(0, self.width, lanes):
                store(near, load(self.buffer, chunk, d + u, i, lanes=lanes), u, i)
        return [[near[u, i] for i in range(self.width)] for u in range(steps)]


class Values:
    """[group of columns, key, column of the group]."""

    def __init__(self, inputs: Inputs, isa: Isa, columns: int) -> None:
        self.inputs, self.isa, self.columns = inputs, isa, columns
        size = inputs.workload.value_size
        self.buffer = workspace(ceil_div(size, columns), inputs.kv_len, columns)

    def fill(self, batch: Expr, head: Expr) -> None:
        inputs, size = self.inputs, self.inputs.workload.value_size
        for group in range(ceil_div(size, self.columns)):
            first = group * self.columns

            def value(at: Expr, d: Expr, width: int, first: int = first) -> Expr:
                return inputs.v(batch, at, head, first + d, width)

            copy(self.buffer, inputs.kv_len, min(self.columns, size - first), self.isa.lanes,
                 value, group)

    def load(self, key: Expr, column: Expr, width: int) -> Expr:
        return load(self.buffer, column // self.columns, key, column % self.columns, lanes=width)


def copy(
    target: Buffer, rows: Expr, size: int, lanes: int,
    source: Callable[[Expr, Expr, int], Expr], *before: Expr,
) -> None:
    """target[..., row, d] = source(row, d)."""
    with loop(rows) as row:
        for d, width in vectors(size, lanes):
            store(target, source(row, d, width), *before, row, d)


def vectors(size: int, lanes: int) -> list[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `size`: whole ones, then halves of halves."""
    found, start = [], 0
    while start < size:
        while start + lanes > size:
            lanes //= 2
        found.append((start, lanes))
        start += lanes
    return found


def turn(
    target: Buffer, column: int, size: int, lanes: int,
    row: Callable[[int, Expr, int], Expr], *before: Expr,
) -> None:
    """target[..., d, column + i] = row(i, d) for `lanes` rows of `size` numbers."""
    with loop(size // lanes) as step:
        square = [row(i, step * lanes, lanes) for i in range(lanes)]
        for i, vector in enumerate(transpose(square)):
            store(target, vector, *before, step * lanes + i, column)
    for d in range(size // lanes * lanes, size):
        for i in range(lanes):
            store(target, row(i, d, 1), *before, d, column + i)
