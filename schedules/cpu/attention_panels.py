"""Keys and values of one head, copied to where they lie close together for all its tiles.

In the model's arrays the rows of a head are as far apart as all heads are long: a few hundred of
them fall into the same sets of a cache and need a page each.
"""

from __future__ import annotations

from tvm import tirx

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_mask import Mask
from pocketformer.schedules.cpu.attention_products import Products, padded_words
from pocketformer.schedules.cpu.attention_ranges import Range
from pocketformer.schedules.cpu.attention_words import (
    Row,
    Words,
    neighbours,
    padded,
    row_words,
    turn,
    vectors,
)
from pocketformer.schedules.cpu.kernel import (
    Expr,
    ceil_div,
    load,
    loop,
    registers,
    store,
    when,
    workspace,
)


class Keys:
    """[panel, word, key of the panel] where the instruction set multiplies by a lane of a register
    (Arm), else [key, word]. A chunk of `width` keys begins every `width` keys; the last one is
    moved back to end with the last key.
    """

    def __init__(self, inputs: Inputs, dot: Products, width: int, mask: Mask) -> None:
        self.inputs, self.dot, self.width, self.mask = inputs, dot, width, mask
        words = padded_words(dot, inputs.workload.head_size)
        shape = (ceil_div(inputs.kv_len, width), words, width) if dot.by_lane else (
            inputs.kv_len, words)
        self.buffer = workspace(*shape, dtype=dot.word)
        self.range = Range.of(inputs, dot)

    def first(self, chunk: Expr) -> Expr:
        """The key that a chunk begins with."""
        return tirx.min(chunk * self.width, self.inputs.kv_len - self.width)

    def fill(self, batch: Expr, head: Expr) -> None:
        inputs, dot, size = self.inputs, self.dot, self.inputs.workload.head_size
        numbers: Words = dot.numbers
        if self.range:
            numbers = self.range.measure(
                inputs.kv_len, size, lambda at, d, width: inputs.k(batch, at, head, d, width),
                lambda at: self.mask.counted(batch, at))
        if not dot.by_lane:
            with loop(inputs.kv_len) as at:
                def row(d: Expr, width: int) -> Expr:
                    return numbers(inputs.k(batch, at, head, d, width))

                for word, vector in row_words(dot, dot.keys, size, row):
                    store(self.buffer, vector, at, word)
            return
        with loop(ceil_div(inputs.kv_len, self.width)) as panel:
            for column in range(0, self.width, dot.lanes):
                def key(i: int, d: Expr, width: int, column: int = column) -> Expr:
                    at = self.first(panel) + column + i
                    return numbers(inputs.k(batch, at, head, d, width))

                turn(self.buffer, column, dot, dot.keys, size, key, panel)

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

    def __init__(self, inputs: Inputs, dot: Products, columns: int, mask: Mask) -> None:
        self.inputs, self.dot, self.columns, self.mask = inputs, dot, columns, mask
        size = inputs.workload.value_size
        self.buffer = workspace(
            ceil_div(size, columns), ceil_div(inputs.kv_len, dot.group), columns, dtype=dot.word)
        self.range = Range.of(inputs, dot)

    def fill(self, batch: Expr, head: Expr) -> None:
        inputs, dot, size = self.inputs, self.dot, self.inputs.workload.value_size
        whole, rest = inputs.kv_len // dot.group, inputs.kv_len % dot.group
        numbers: Words = dot.numbers
        if self.range:
            numbers = self.range.measure(
                inputs.kv_len, size, lambda at, d, width: inputs.v(batch, at, head, d, width),
                lambda at: self.mask.counted(batch, at))
        for group in range(ceil_div(size, self.columns)):
            def put(word: Expr, keys: int, last: Expr | None = None, group: int = group) -> None:
                first = group * self.columns
                places = [word * dot.group + i for i in range(keys)]
                if last is not None:
                    places = [tirx.min(at, last) for at in places]
                rows = [self._row(batch, head, at, first, numbers) for at in places]
                for d, width in self._vectors(min(self.columns, size - first)):
                    parts = [padded(row, d, width, size - first) for row in rows]
                    zero = tirx.const(0, str(parts[0].ty))
                    parts += [zero] * (dot.group - keys)
                    store(self.buffer, dot.values(neighbours(parts)), group, word, d)

            with loop(whole) as word:
                put(word, dot.group)
            if not isinstance(rest, int) or rest:
                with when(isinstance(rest, int) or rest > 0):
                    # What has no weight still counts where it is NaN, which no integer is.
                    if dot.integers:
                        put(whole, dot.group, inputs.kv_len - 1)
                    else:
                        put(whole, 1)

    def load(self, word: Expr, column: Expr, width: int) -> Expr:
        return load(self.buffer, column // self.columns, word, column % self.columns, lanes=width)

    def _row(self, batch: Expr, head: Expr, at: Expr, first: int, numbers: Words) -> Row:
        return lambda d, width: numbers(self.inputs.v(batch, at, head, first + d, width))

    def _vectors(self, size: int) -> list[tuple[int, int]]:
        """What covers `size` columns; words of several numbers come whole."""
        if self.dot.group == 1:
            return vectors(size, self.dot.lanes)
        return [(at, self.dot.lanes) for at in range(0, size, self.dot.lanes)]
