"""A tile of queries of one head and all their keys: queries lie along the vectors, keys below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_inputs import Inputs, widened
from pocketformer.schedules.cpu.attention_mask import Mask
from pocketformer.schedules.cpu.attention_panels import Keys, Values
from pocketformer.schedules.cpu.attention_products import padded_columns
from pocketformer.schedules.cpu.attention_scores import Place, ScoreWriter, all_full
from pocketformer.schedules.cpu.attention_softmax import HIDDEN, LOWEST, exp2
from pocketformer.schedules.cpu.attention_values import Sums, each_vector
from pocketformer.schedules.cpu.intrinsics import isa_named
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    ceil_div,
    lanes_of,
    load,
    loop,
    registers,
    splat,
    store,
    typed,
    when,
    workspace,
)
from pocketformer.schedules.cpu.rows import plus_zero_times

if TYPE_CHECKING:
    from pocketformer.schedules.cpu.attention import FusedAttention


class TileWriter:
    """Writes what a tile does. There are at least as many keys as the tile's scores have."""

    def __init__(
        self, point: FusedAttention, inputs: Inputs, keys: Keys, values: Values, mask: Mask
    ) -> None:
        self.point, self.inputs, self.keys, self.values = point, inputs, keys, values
        self.mask = mask
        self.workload, self.isa = inputs.workload, isa_named(point.isa)
        self.dot, self.lanes = keys.dot, self.isa.lanes
        self.columns = range(0, point.queries, self.lanes)
        kv_len, value_size = inputs.kv_len, inputs.workload.value_size
        self.width = padded_columns(self.dot, value_size)
        self.fits = all_full(inputs.q_len, point.queries)
        # All keys at once: nothing is rescaled, and sums go from registers to the output.
        self.single = (
            isinstance(kv_len, int) and kv_len <= point.block and not inputs.may_lose
            and self.width == value_size)

    def write(self, place: Place) -> None:
        """All keys for one tile of queries."""
        point, inputs = self.point, self.inputs
        scores = self.scores = ScoreWriter(point, inputs, self.keys, self.mask)
        scores.begin(place)
        # The last chunk of a block is moved back where it would pass the last key.
        scratch = workspace(point.keys + point.block, point.queries)
        self.weights, self.first_weight = scratch, point.keys
        if self.dot.group > 1:
            shape = point.block // self.dot.group, point.queries
            self.weights, self.first_weight = workspace(*shape, dtype=self.dot.word), 0
        self.greatest, self.total, self.scale, self.most = (
            registers(point.queries) for _ in range(4))
        if self.dot.integers:
            # What sums for results start from.
            self.results_less = registers(point.queries, dtype=self.dot.sums)
        for column in self.columns:
            store(self.greatest, splat(LOWEST, self.lanes), column)
            store(self.total, splat(0.0, self.lanes), column)
        last = tirx.min(place.first + point.queries, inputs.q_len) - 1
        visible = inputs.seen(last)

        def take(block: Expr, count: Expr) -> None:
            for column in self.columns:
                store(self.most, load(self.greatest, column, lanes=self.lanes), column)
            with loop(ceil_div(count, point.keys)) as chunk:
                scores.write(scratch, self.most, block, chunk)
            self._softmax(scratch, count)

        if self.single:
            take(0, visible)
            self._finish()
            self._weigh(None, place, 0, visible)
            return
        results = workspace(point.queries, self.width)
        each_vector(self.width, self.lanes, point.queries, lambda r, at, width:
                    store(results, splat(0.0, width), r, at))
        with loop(ceil_div(visible, point.block)) as block:
            count = tirx.min(visible - block * point.block, point.block)
            take(block, count)
            self._weigh(results, place, block * (point.block // self.dot.group), count)
        if inputs.may_lose:
            self._add_later_keys(results, place)
        self._finish()
        each_vector(inputs.workload.value_size, self.lanes, point.queries, lambda r, at, width:
                    self._write(load(results, r, at, lanes=width), place, r, at))

    def _softmax(self, scratch: Buffer, count: Expr) -> None:
        """Turn the scores of `count` keys into exponentials, in words as products take them."""
        isa, lanes = self.isa, self.lanes
        tops = []
        for column in self.columns:
            tops.append(T.bind(load(self.most, column, lanes=lanes)))
            if not self.single:
                old = load(self.greatest, column, lanes=lanes)
                store(self.scale, exp2(isa, old - tops[-1]), column)
                store(self.greatest, tops[-1], column)
        group, words = self.dot.group, ceil_div(count, self.dot.group)
        self._end_word(scratch, count)
        ways = max(1, self.point.ways // (len(self.columns) * (group if self.dot.integers else 1)))
        sums = registers(self.point.queries, dtype=self.dot.sums)
        for column in self.columns:
            store(sums, splat(tirx.const(0, self.dot.sums), lanes), column)

        def weight(key: Expr, column: int, top: Expr) -> Expr:
            score = load(scratch, self.point.keys + key, column, lanes=lanes)
            return T.bind(self.dot.exponential(isa, score - top))

        def take(word: Expr, ways: int) -> None:
            for way in range(ways):
                for column, top in zip(self.columns, tops, strict=True):
                    key = (word + way) * group
                    weights = [weight(key + i, column, top) for i in range(group)]
                    packed = T.bind(self.dot.weights(weights))
                    store(self.weights, packed, self.first_weight + word + way, column)
                    before = load(sums, column, lanes=lanes)
                    store(sums, self.dot.total(before, weights, packed), column)

        with loop(words // ways) as step:
            take(step * ways, ways)
        with loop(words % ways) as rest:
            take(words // ways * ways + rest, 1)
        for column in self.columns:
            total = load(sums, column, lanes=lanes)
            if self.dot.integers:
                store(self.results_less, self.dot.results_less(total), column)
                total = total.astype(typed("float32", lanes))
            if not self.single:
                old = load(self.total, column, lanes=lanes) * load(self.scale, column, lanes=lanes)
                total = total + old
            store(self.total, total, column)

    def _end_word(self, scratch: Buffer, count: Expr) -> None:
        """Where `count` keys end in the middle of a word, nothing is seen of the next ones."""
        if self.dot.group == 1:
            return
        with loop(ceil_div(count, self.dot.group) * self.dot.group - count) as i:
            for column in self.columns:
                store(scratch, splat(HIDDEN, self.lanes), self.point.keys + count + i, column)

    def _add_later_keys(self, results: Buffer, place: Place) -> None:
        """To the queries that a mask of finite values leaves no other key."""
        inputs, size = self.inputs, self.workload.value_size
        kv_head, greatest = place.head // inputs.group, T.float32(self.dot.greatest)
        weight = greatest
        if self.values.range:
            weight = T.bind(greatest / self.values.range.scale)
        with loop(self.point.queries) as r:
            seen = inputs.seen(place.first + r)
            with when(inputs.lost(self.greatest[r], self.total[r])), \
                    loop(inputs.kv_len - seen) as later:
                store(self.total, self.total[r] + greatest, r)
                each_vector(size, self.lanes, 1, lambda _, at, width: store(
                    results, load(results, r, at, lanes=width) + splat(weight, width)
                    * widened(inputs.v(place.batch, seen + later, kv_head, at, width)), r, at))

    def _finish(self) -> None:
        """Every query's `scale` is now what its sums are multiplied with."""
        for column in self.columns:
            total = T.bind(load(self.total, column, lanes=self.lanes))
            share = self.inputs.share(total, self.lanes)
            if self.values.range:
                share = share * splat(self.values.range.scale, self.lanes)
                # Integers, as weights are, know no NaN.
                share = plus_zero_times(share, self.scores.unit(column))
            store(self.scale, share, column)

    def _weigh(
        self, results: Buffer | None, place: Place, first: Expr, count: Expr
    ) -> None:
        """Add weights @ values to the results, or write them where these keys are all.

        `first` is a word of keys, `count` a number of keys.
        """
        point, inputs = self.point, self.inputs
        rows = point.value_rows
        left = tirx.min(inputs.q_len - place.first, point.queries)

        def before(r: Expr, at: Expr, width: int) -> Expr:
            if results is None:
                return splat(0.0, width)
            return load(results, r, at, lanes=width) * splat(self.scale[r], width)

        def start(r: Expr, at: Expr, width: int) -> Expr:
            return splat(self.results_less[r], width) if self.dot.integers else before(r, at, width)

        def finish(value: Expr, r: Expr, at: Expr) -> None:
            if self.dot.integers:
                width = lanes_of(value)
                value = value.astype(typed("float32", width)) + before(r, at, width)
            if results is None:
                self._write(value, place, r, at)
            else:
                store(results, value, r, at)

        with loop(ceil_div(left, rows)) as part:
            def weights(word: Expr, steps: int) -> list[list[Expr]]:
                at = self.first_weight + word
                if not self.isa.by_lane:
                    return [[self.weights[at + u, part * rows + r] for r in range(rows)]
                            for u in range(steps)]
                near = registers(steps, rows, dtype=self.dot.word)
                for u in range(steps):
                    for r in range(0, rows, self.lanes):
                        store(near, load(self.weights, at + u, part * rows + r,
                                         lanes=self.lanes), u, r)
                return [[near[u, r] for r in range(rows)] for u in range(steps)]

            sums = Sums(
                self.dot, rows, point.columns,
                lambda r, at, width: start(part * rows + r, at, width),
                lambda value, r, at: finish(value, part * rows + r, at),
            )
            sums.weigh(self.width, ceil_div(count, self.dot.group), weights,
                       lambda word, at, width: self.values.load(first + word, at, width))

    def _write(self, value: Expr, place: Place, row: Expr, column: Expr) -> None:
        with when(self.fits or place.first + row < self.inputs.q_len):
            value = value * splat(self.scale[row], lanes_of(value))
            self.inputs.write(value, place.batch, place.first + row, place.head, column)
