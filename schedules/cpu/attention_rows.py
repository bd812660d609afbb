"""A few queries that share a key head: keys are read where they lie, once, as rows of numbers.

All scores of a query are kept, so its softmax is the textbook's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_products import in_float32
from pocketformer.schedules.cpu.attention_softmax import HIDDEN, LOWEST, exp2, larger
from pocketformer.schedules.cpu.attention_values import Sums
from pocketformer.schedules.cpu.intrinsics import Isa, reduce_add, reduce_max
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Tile,
    lanes_of,
    load,
    loop,
    registers,
    splat,
    store,
    when,
    workspace,
)


class RowWriter:
    """`rows` rows at a time of those that read a key head: query by query, its heads in order."""

    def __init__(self, isa: Isa, inputs: Inputs, rows: int, columns: int) -> None:
        self.isa, self.inputs, self.rows, self.columns = isa, inputs, rows, columns
        self.dot = in_float32(isa)
        self.lanes, self.size = isa.lanes, inputs.workload.head_size
        self.count = inputs.q_len * inputs.group     # of rows that read a key head
        self.fits = isinstance(self.count, int) and self.count % rows == 0

    def write(self, batch: Expr, kv_head: Expr, first: Expr) -> None:
        """The rows of a key head from `first` on."""
        inputs, lanes, rows = self.inputs, self.lanes, self.rows

        def place(r: Expr) -> tuple[Expr, Expr]:
            """The query and the head of row `first + r`, of the last row past the end."""
            at = first + r if self.fits else tirx.min(first + r, self.count - 1)
            return at // inputs.group, kv_head * inputs.group + at % inputs.group

        whole = self.size // lanes * lanes
        queries = workspace(rows, self.size)
        for r in range(rows):
            at, head = place(r)
            with loop(self.size // lanes) as step:
                d = step * lanes
                store(queries, inputs.scaled_q(batch, at, head, d, lanes), r, d)
            with loop(self.size - whole) as d:
                store(queries, inputs.scaled_q(batch, at, head, whole + d, 1), r, whole + d)
        weights = workspace(rows, inputs.kv_len)
        scales = registers(rows)
        visible = inputs.kv_len if inputs.may_lose else inputs.seen(place(rows - 1)[0])
        self._scores(batch, kv_head, place, queries, weights, visible)
        with loop(rows) as r:
            self._softmax(weights, scales, r, visible, place(r)[0])

        def finish(value: Expr, r: int, column: Expr) -> None:
            at, head = place(r)
            with when(self.fits or first + r < self.count):
                inputs.write(value * splat(scales[r], lanes_of(value)), batch, at, head, column)

        sums = Sums(
            self.dot, rows, self.columns, lambda r, at, width: splat(0.0, width), finish)
        sums.weigh(
            inputs.workload.value_size, visible,
            lambda key, steps: self._weights(weights, key, steps),
            lambda key, at, width: self.dot.numbers(inputs.v(batch, key, kv_head, at, width)),
        )

    def _weights(self, weights: Buffer, key: Expr, steps: int) -> list[list[Expr]]:
        if not self.isa.by_lane or steps % self.lanes:
            return [[weights[r, key + u] for r in range(self.rows)] for u in range(steps)]
        near = Tile(self.rows, steps)
        for r in range(self.rows):
            for u in range(0, steps, self.lanes):
                near.store(load(weights, r, key + u, lanes=self.lanes), r, u)
        return [[near.load(r, u, 1) for r in range(self.rows)] for u in range(steps)]

    def _scores(
        self, batch: Expr, kv_head: Expr, place: Callable[[Expr], tuple[Expr, Expr]],
        queries: Buffer, weights: Buffer, visible: Expr,
    ) -> None:
        """weights[row, key] = score; as many keys at a time as a vector has lanes."""
        inputs, lanes = self.inputs, self.lanes

        def key_at(key: Expr, d: Expr, width: int) -> Expr:
            return self.dot.numbers(inputs.k(batch, key, kv_head, d, width))

        def take(key: Expr, width: int) -> None:
            for r in range(self.rows):
                at, head = place(r)
                score = self._products(queries, r, key, key_at, width)
                score = score + inputs.masked(batch, head, at, key, width)
                if inputs.workload.causal:
                    seen = inputs.seen(at)
                    index = T.ramp(key, 1, width) if width > 1 else key
                    score = tirx.Select(index < (T.broadcast(seen, width) if width > 1 else seen),
                                        score, splat(HIDDEN, width))
                store(weights, score, r, key)

        with loop(visible // lanes) as step:
            take(step * lanes, lanes)
        with loop(visible % lanes) as rest:
            take(visible // lanes * lanes + rest, 1)

    def _products(
        self, queries: Buffer, r: int, key: Expr,
        key_at: Callable[[Expr, Expr, int], Expr], count: int,
    ) -> Expr:
        """A row's query times each of `count` keys from `key` on."""
        lanes, size = self.lanes, self.size
        whole = size // lanes * lanes
        sums = Tile(count, lanes)
        singles = registers(count)
        for i in range(count):
            sums.store(splat(0.0, lanes), i, 0)
            store(singles, splat(0.0, 1), i)
        with loop(size // lanes) as step:
            query = T.bind(load(queries, r, step * lanes, lanes=lanes))
            for i in range(count):
                sums.add(query * key_at(key + i, step * lanes, lanes), i, 0)
        with loop(size - whole) as d:
            for i in range(count):
                store(singles, singles[i] + queries[r, whole + d]
                      * key_at(key + i, whole + d, 1), i)
        vectors = [sums.load(i, 0, lanes) for i in range(count)]
        total = reduce_add(vectors[0]) if count == 1 else across(vectors)
        return total if whole == size else total + load(singles, 0, lanes=count)

    def _softmax(
        self, weights: Buffer, scales: Buffer, r: Expr, count: Expr, query: Expr
    ) -> None:
        """Turn a row's scores into exponentials; `scales` gets what its sums are multiplied with.
        """
        isa, lanes = self.isa, self.lanes
        most, single = registers(lanes), registers(1)

        def each(visit: Callable[[Expr, int, Buffer], None]) -> None:
            with loop(count // lanes) as step:
                visit(step * lanes, lanes, most)
            with loop(count % lanes) as rest:
                visit(count // lanes * lanes + rest, 1, single)

        def start(value: float) -> None:
            store(most, splat(value, lanes), 0)
            store(single, splat(value, 1), 0)

        start(LOWEST)
        each(lambda at, width, into: store(into, larger(
            isa, load(into, 0, lanes=width), load(weights, r, at, lanes=width)), 0))
        top = T.bind(tirx.max(reduce_max(load(most, 0, lanes=lanes)), single[0]))
        start(0.0)

        def take(at: Expr, width: int, into: Buffer) -> None:
            score = load(weights, r, at, lanes=width)
            weight = T.bind(exp2(isa, score - splat(top, width)))
            store(weights, weight, r, at)
            store(into, load(into, 0, lanes=width) + weight, 0)

        each(take)
        store(single, reduce_add(load(most, 0, lanes=lanes)) + single[0], 0)
        if self.inputs.may_lose:
            seen = self.inputs.seen(query)
            with when(self.inputs.lost(top, single[0])), loop(count - seen) as later:
                store(weights, T.float32(1.0), r, seen + later)
                store(single, single[0] + T.float32(1.0), 0)
        store(scales, self.inputs.share(single[0], 1), r)


def across(vectors: list[Expr]) -> Expr:
    """The vector of the sums of each vector's lanes, as many vectors as lanes."""
    lanes = len(vectors)
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [T.bind(reduce(lambda a, b: a + b, [
            tirx.Shuffle([T.bind(low), T.bind(high)], [2 * i + odd for i in range(lanes)])
            for odd in (0, 1)])) for low, high in pairs]
    return vectors[0]
