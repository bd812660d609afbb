"""The scores of a tile of queries, some keys at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_mask import Mask
from pocketformer.schedules.cpu.attention_panels import Keys
from pocketformer.schedules.cpu.attention_products import padded_words
from pocketformer.schedules.cpu.attention_ranges import QueryRanges, Rows
from pocketformer.schedules.cpu.attention_softmax import HIDDEN, larger
from pocketformer.schedules.cpu.attention_values import STEPS
from pocketformer.schedules.cpu.attention_words import turn
from pocketformer.schedules.cpu.intrinsics import isa_named
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Tile,
    ceil_div,
    load,
    loop,
    registers,
    splat,
    store,
    typed,
    when,
    workspace,
)

if TYPE_CHECKING:
    from pocketformer.schedules.cpu.attention import FusedAttention


@dataclass(frozen=True)
class Place:
    """Which queries a tile holds: those of one head from `first` on."""

    batch: Expr
    head: Expr
    first: Expr


class ScoreWriter:
    """There are at least as many keys as a chunk has.

    Of integers, `unit` of a column makes scores, in powers of two, of what the queries from there
    on give, NaN where the numbers behind them are not finite.
    """

    def __init__(self, point: FusedAttention, inputs: Inputs, keys: Keys, mask: Mask) -> None:
        self.point, self.inputs, self.keys, self.mask = point, inputs, keys, mask
        self.workload, self.isa = inputs.workload, isa_named(point.isa)
        self.dot, self.lanes = keys.dot, self.isa.lanes
        self.columns = range(0, point.queries, self.lanes)

    def begin(self, place: Place) -> None:
        """Make a tile's queries ready."""
        self.place = place
        take = self._numbers(place)
        self.queries = self._turned(take)
        if self.dot.integers:
            # What sums of products start from.
            self.less = registers(self.point.queries, dtype=self.dot.sums)
            self._sum_queries()
        self.mask.begin()

    def _numbers(self, place: Place) -> Rows:
        """Those of a query of the tile as products take them, the last one's past the end."""
        inputs, keys = self.inputs, self.keys
        fits = all_full(inputs.q_len, self.point.queries)
        take = inputs.q if self.dot.integers else inputs.scaled_q

        def query(i: Expr, d: Expr, width: int) -> Expr:
            at = place.first + i
            at = at if fits else tirx.min(at, inputs.q_len - 1)
            return take(place.batch, at, place.head, d, width)

        unit = T.bind(inputs.unit)
        self.unit: Callable[[int], Expr] = lambda column: splat(unit, self.lanes)
        if keys.range is None:
            return query
        ranges = QueryRanges(self.point.queries, self.lanes)
        rounded = ranges.measure(self.workload.head_size, query, unit * keys.range.scale)
        self.unit = lambda column: load(ranges.unit, column, lanes=self.lanes)
        return lambda i, d, width: rounded(i, query(i, d, width))

    def _turned(self, take: Rows) -> Buffer:
        """[word, query]."""
        size = self.workload.head_size
        words = padded_words(self.dot, size)
        turned = workspace(words, self.point.queries, dtype=self.dot.word)

        for column in self.columns:
            def query(i: int, d: Expr, width: int, column: int = column) -> Expr:
                return take(column + i, d, width)

            turn(turned, column, self.dot, self.dot.words, size, query)
        return turned

    def _sum_queries(self) -> None:
        words = ceil_div(self.workload.head_size, self.dot.group)
        for column in self.columns:
            less = self.dot.scores_less(
                [load(self.queries, word, column, lanes=self.lanes) for word in range(words)])
            store(self.less, less, column)

    def write(self, scratch: Buffer, most: Buffer, block: Expr, chunk: Expr) -> None:
        """A chunk of keys: scratch[key, query] = their scores, `most` the greatest so far."""
        point, lanes, dot = self.point, self.lanes, self.dot
        chunk = block * (point.block // point.keys) + chunk
        key = T.bind(self.keys.first(chunk))
        masked = self.mask.scores(self.place, key)
        sums = Tile(point.keys, point.queries, dot.sums)
        for i in range(point.keys):
            for column in self.columns:
                start = (load(self.less, column, lanes=lanes) if dot.integers
                         else masked(i, column))
                sums.store(start, i, column)

        def add(word: Expr, steps: int) -> None:
            for u, numbers in enumerate(self.keys.numbers(chunk, key, word, steps)):
                for i, number in enumerate(numbers):
                    for column in self.columns:
                        query = load(self.queries, word + u, column, lanes=lanes)
                        before = sums.load(i, column, lanes)
                        sums.store(dot.score(before, splat(number, lanes), query), i, column)

        words = ceil_div(self.workload.head_size, dot.group)
        steps = STEPS if self.isa.by_lane else 1
        with loop(words // steps) as step:
            add(step * steps, steps)
        if rest := words % steps:
            add(words - rest, rest)
        if dot.integers:
            sums = self._scaled(sums, masked)
        if self.workload.causal:
            self._hide(sums, key, self.place.first + self.inputs.past)
        for column in self.columns:
            vectors = [sums.load(i, column, lanes) for i in range(point.keys)]
            known = [load(most, column, lanes=lanes), *vectors]
            store(most, reduce(lambda a, b: larger(self.isa, a, b), known), column)
            for i, vector in enumerate(vectors):
                store(scratch, vector, key - block * point.block + (point.keys + i), column)

    def _scaled(self, sums: Tile, masked: Callable[[int, int], Expr]) -> Tile:
        """The scores of products of integers."""
        scores, lanes = Tile(self.point.keys, self.point.queries), self.lanes
        units = [T.bind(self.unit(column)) for column in self.columns]
        for i in range(self.point.keys):
            for column, unit in zip(self.columns, units, strict=True):
                score = sums.load(i, column, lanes).astype(typed("float32", lanes))
                score = score * unit
                if self.inputs.mask is not None:
                    score = score + masked(i, column)
                scores.store(score, i, column)
        return scores

    def _hide(self, sums: Tile, key: Expr, last: Expr) -> None:
        """The keys that come after a query; its first query sees all up to `last`."""
        with when(key + self.point.keys - 1 > last):
            for i in range(self.point.keys):
                for column in self.columns:
                    later = splat(tirx.Cast("int32", key + i - last - column), self.lanes)
                    hidden = later > T.ramp(T.int32(0), T.int32(1), self.lanes)
                    sums.store(tirx.Select(hidden, splat(HIDDEN, self.lanes),
                                           sums.load(i, column, self.lanes)), i, column)


def all_full(q_len: Expr, queries: int) -> bool:
    """Whether no tile of `queries` has less of them."""
    return isinstance(q_len, int) and q_len % queries == 0
