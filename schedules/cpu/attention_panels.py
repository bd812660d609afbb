"""Keys and values of one head, copied to where they lie close together for all its tiles.

In the model's arrays the rows of a head are as far apart as all heads are long: a few hundred of
them fall into the same sets of a cache and need a page each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_products import (
    Products,
    Row,
    neighbours,
    padded,
    padded_words,
    vectors,
)
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    ceil_div,
    load,
    loop,
    registers,
    splat,
    store,
    transpose,
    when,
    workspace,
)


class Keys:
    """[panel, word, key of the panel] where the instruction set multiplies by a lane of a register
    (Arm), else [key, word]. A chunk of `width` keys begins every `width` keys; the last one is
    moved back to end with the last key.
    """

    def __init__(self, inputs: Inputs, dot: Products, width: int) -> None:
        self.inputs, self.dot, self.width = inputs, dot, width
        words = padded_words(dot, inputs.workload.head_size)
        shape = (ceil_div(inputs.kv_len, width), words, width) if dot.by_lane else (
            inputs.kv_len, words)
        self.buffer = workspace(*shape, dtype=dot.word)

    def first(self, chunk: Expr) -> Expr:
        """The key that a chunk begins with."""
        return tirx.min(chunk * self.width, self.inputs.kv_len - self.width)

    def fill(self, batch: Expr, head: Expr) -> None:
        inputs, dot, size = self.inputs, self.dot, self.inputs.workload.head_size
        if not dot.by_lane:
            with loop(inputs.kv_len) as at:
                def row(d: Expr, width: int) -> Expr:
                    return inputs.k(batch, at, head, d, width)

                for word, vector in _words(dot, size, row):
                    store(self.buffer, vector, at, word)
            return
        with loop(ceil_div(inputs.kv_len, self.width)) as panel:
            for column in range(0, self.width, dot.lanes):
                def key(i: int, d: Expr, width: int, column: int = column) -> Expr:
                    return inputs.k(batch, self.first(panel) + column + i, head, d, width)

                turn(self.buffer, column, dot, size, key, panel)

    def numbers(self, chunk: Expr, key: Expr, word: Expr, steps: int) -> list[list[Expr]]:
        """For `steps` words from `word` on those of all keys of a chunk, which begins at `key`."""
        if not self.dot.by_lane:
            return [[self.buffer[key + i, word + u] for i in range(self.width)]
                    for u in range(steps)]
        lanes = self.dot.lanes
        near = registers(steps, self.width, dtype=self.dot.word)
        for u in range(steps):
            for i in range(0, self.width, lanes):
                store(near, load(self.buffer, chunk, word + u, i, lanes=lanes), u, i)
        return [[near[u, i] for i in range(self.width)] for u in range(steps)]


class Values:
    """[group of columns, word of keys, column of the group]."""

    def __init__(self, inputs: Inputs, dot: Products, columns: int) -> None:
        self.inputs, self.dot, self.columns = inputs, dot, columns
        size = inputs.workload.value_size
        self.buffer = workspace(
            ceil_div(size, columns), ceil_div(inputs.kv_len, dot.group), columns, dtype=dot.word)

    def fill(self, batch: Expr, head: Expr) -> None:
        inputs, dot, size = self.inputs, self.dot, self.inputs.workload.value_size
        whole, rest = inputs.kv_len // dot.group, inputs.kv_len % dot.group
        for group in range(ceil_div(size, self.columns)):
            def put(word: Expr, keys: int, group: int = group) -> None:
                first = group * self.columns
                rows = [self._row(batch, head, word * dot.group + i, first) for i in range(keys)]
                for d, width in self._vectors(min(self.columns, size - first)):
                    parts = [padded(row, d, width, size - first) for row in rows]
                    parts += [splat(0.0, width)] * (dot.group - keys)
                    store(self.buffer, dot.left(neighbours(parts)), group, word, d)

            with loop(whole) as word:
                put(word, dot.group)
            if not isinstance(rest, int) or rest:
                with when(isinstance(rest, int) or rest > 0):
                    put(whole, 1)

    def load(self, word: Expr, column: Expr, width: int) -> Expr:
        return load(self.buffer, column // self.columns, word, column % self.columns, lanes=width)

    def _row(self, batch: Expr, head: Expr, at: Expr, first: int) -> Row:
        return lambda d, width: self.inputs.v(batch, at, head, first + d, width)

    def _vectors(self, size: int) -> list[tuple[int, int]]:
        """What covers `size` columns; words of pairs come by whole vectors."""
        if self.dot.group == 1:
            return vectors(size, self.dot.lanes)
        return [(at, self.dot.lanes) for at in range(0, size, self.dot.lanes)]


def _words(dot: Products, size: int, row: Row) -> list[tuple[int, Expr]]:
    """(first word, vector) of all words of a row of `size` numbers."""
    if dot.group == 1:
        return [(d, row(d, width)) for d, width in vectors(size, dot.lanes)]
    step = dot.lanes * dot.group
    return [(at // dot.group, dot.left(padded(row, at, step, size)))
            for at in range(0, size, step)]


def turn(
    target: Buffer, column: int, dot: Products, size: int,
    row: Callable[[int, Expr, int], Expr], *before: Expr,
) -> None:
    """target[..., word, column + i] = the words of row(i, d) for `lanes` rows of `size` numbers."""
    lanes, step = dot.lanes, dot.lanes * dot.group
    whole = size // step

    def put(at: Expr, number: Expr) -> None:
        square = [dot.left(padded(partial(row, i), at, step, size)) for i in range(lanes)]
        for i, vector in enumerate(transpose(square)):
            store(target, vector, *before, number * lanes + i, column)

    with loop(whole) as number:
        put(number * step, number)
    if dot.group > 1 and size % step:
        put(whole * step, whole)
    elif dot.group == 1:
        for d in range(whole * step, size):
            for i in range(lanes):
                store(target, row(i, d, 1), *before, d, column + i)
