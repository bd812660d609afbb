"""The softmax of an attention tile, a block of keys at a time."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu import math
from pocketformer.schedules.cpu.intrinsics import reduce_add, reduce_max
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    ceil_div,
    load,
    loop,
    registers,
    splat,
    store,
)

LOWEST = -3.4028234663852886e38     # not -inf, from which nothing can be subtracted


class RunningSoftmax:
    """Per row: the greatest score so far, the sum of exponentials, and how much older sums shrink.

    Scores come in chunks of `keys`, which are whole vectors of `lanes`.
    """

    def __init__(self, rows: int, keys: int, lanes: int) -> None:
        self.rows, self.keys, self.lanes = rows, keys, lanes
        size = ceil_div(rows, lanes) * lanes
        self.greatest, self.total, self.scale = (registers(size) for _ in range(3))
        for r in range(0, size, lanes):
            store(self.scale, splat(0.0, lanes), r)     # lives from here on, see `registers`
            store(self.greatest, splat(LOWEST, lanes), r)
            store(self.total, splat(0.0, lanes), r)

    def take(self, weights: Buffer, chunks: Expr) -> None:
        """Turn the scores in `weights[row, chunk * keys + key]` into exponentials."""
        with loop(self.rows) as r:
            top = T.bind(tirx.max(self.greatest[r], reduce_max(self._most(weights, r, chunks))))
            shrink = T.bind(math.exp(self.greatest[r] - top))
            store(self.greatest, top, r)
            store(self.scale, shrink, r)
            added = reduce_add(self._exponentials(weights, r, chunks, top))
            store(self.total, self.total[r] * shrink + added, r)

    def _most(self, weights: Buffer, r: Expr, chunks: Expr) -> Expr:
        lanes = self.lanes
        columns = range(0, self.keys, lanes)
        most = registers(self.keys)
        for column in columns:
            store(most, splat(LOWEST, lanes), column)
        with loop(chunks) as chunk:
            for column in columns:
                score = load(weights, r, chunk * self.keys + column, lanes=lanes)
                store(most, tirx.max(load(most, column, lanes=lanes), score), column)
        vector = load(most, 0, lanes=lanes)
        for column in columns[1:]:
            vector = tirx.max(vector, load(most, column, lanes=lanes))
        return vector

    def _exponentials(self, weights: Buffer, r: Expr, chunks: Expr, top: Expr) -> Expr:
        lanes = self.lanes
        columns = range(0, self.keys, lanes)
        sums = registers(self.keys)
        for column in columns:
            store(sums, splat(0.0, lanes), column)
        with loop(chunks) as chunk:
            for column in columns:
                at = chunk * self.keys + column
                score = load(weights, r, at, lanes=lanes)
                weight = T.bind(math.exp(score - splat(top, lanes)))
                store(weights, weight, r, at)
                store(sums, load(sums, column, lanes=lanes) + weight, column)
        vector = load(sums, 0, lanes=lanes)
        for column in columns[1:]:
            vector = vector + load(sums, column, lanes=lanes)
        return vector

    def share(self, r: Expr) -> Expr:
        """1 / the sum of exponentials; 0 where no key was seen."""
        total = self.total[r]
        nothing = T.float32(0.0)
        return T.bind(tirx.Select(total == nothing, nothing, T.float32(1.0) / total))
