"""One tile of an attention kernel: a few queries of one head, all their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm import tirx

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_softmax import RunningSoftmax
from pocketformer.schedules.cpu.intrinsics import isa_named
from pocketformer.schedules.cpu.kernel import (
    STACK,
    Buffer,
    Expr,
    Tile,
    ceil_div,
    lanes_of,
    load,
    loop,
    registers,
    splat,
    store,
    transpose,
    when,
    workspace,
)
from pocketformer.schedules.workloads import Attention

if TYPE_CHECKING:
    from pocketformer.schedules.cpu.attention import FusedAttention


@dataclass(frozen=True)
class Place:
    """Which queries a tile holds: those of one head from `first` on."""

    batch: Expr
    head: Expr
    kv_head: Expr
    first: Expr


class TileWriter:
    """Writes what a tile does with the keys' panels."""

    def __init__(self, point: FusedAttention, workload: Attention, inputs: Inputs) -> None:
        self.point, self.workload, self.inputs = point, workload, inputs
        isa = isa_named(point.isa)
        self.lanes, self.by_lane, self.unroll = isa.lanes, isa.by_lane, isa.unroll
        self.q_len, self.kv_len = inputs.q_len, inputs.kv_len
        self.size = workload.head_size
        # All keys at once: nothing is rescaled, and sums go from registers to the output.
        self.single = isinstance(self.kv_len, int) and self.kv_len <= point.block
        # Where a row of scratch memory goes over from weights to results; a vector more than a
        # power of two, so that rows lie in different sets of the cache.
        self.results = point.block + self.lanes

    def write(self, panels: Buffer, place: Place) -> None:
        """All keys for one tile of queries."""
        work, point = self.workload, self.point
        queries = self._queries(place)
        scratch = workspace(point.rows, self.results + ceil_div(work.value_size, 16) * 16)
        mask = self.inputs.mask_buffer(point.rows, point.keys)
        softmax = RunningSoftmax(point.rows, point.keys, self.lanes)
        visible = self.kv_len
        if work.causal:
            last = tirx.min(place.first + point.rows, self.q_len) - 1
            visible = tirx.max(tirx.min(last + self.inputs.past + 1, self.kv_len), 0)

        def take(block: Expr, count: Expr) -> None:
            chunks = ceil_div(count, point.keys)
            with loop(chunks) as chunk:
                self._scores(panels, queries, scratch, mask, place,
                             block * (point.block // point.keys) + chunk, chunk)
            softmax.take(scratch, chunks)
            self._weigh(scratch, softmax, place, block * point.block, count)

        if self.single:
            take(0, visible)
            return
        self._each_result(lambda r, at, width: store(
            scratch, splat(0.0, width), r, self.results + at))
        with loop(ceil_div(visible, point.block)) as block:
            take(block, tirx.min(visible - block * point.block, point.block))
        self._each_result(lambda r, at, width: self._write(
            softmax, load(scratch, r, self.results + at, lanes=width), place, r, at))

    def _each_result(self, visit: Callable[[Expr, Expr, int], None]) -> None:
        """`visit(row, column, lanes)` for the whole tile of the result."""
        with loop(self.point.rows) as r:
            for start, width, count in _vectors(self.workload.value_size, self.lanes):
                with loop(count) as i:
                    visit(r, start + i * width, width)

    def _queries(self, place: Place) -> Callable[[Expr], list[Expr]]:
        """The scaled queries of a tile; gives those at d, and repeats the last past the end."""
        rows, lanes, size = self.point.rows, self.lanes, self.size

        def row(r: Expr, d: Expr, width: int) -> Expr:
            at = place.first + r
            if not self._q_len_fits():
                at = tirx.min(at, self.q_len - 1)
            value = self.inputs.q(place.batch, at, place.head, d, width)
            return value * splat(self.workload.scale, width)

        if not self.by_lane:
            small = 4 * size < STACK
            held = [registers(size) if small else workspace(size) for _ in range(rows)]
            for r in range(rows):
                for start, width, count in _vectors(size, lanes):
                    with loop(count) as i:
                        store(held[r], row(r, start + i * width, width), start + i * width)
            return lambda d: [held[r][d] for r in range(rows)]

        turned = workspace(size, rows)
        for r in range(0, rows, lanes):
            with loop(size // lanes) as step:
                square = [row(r + i, step * lanes, lanes) for i in range(lanes)]
                for i, vector in enumerate(transpose(square)):
                    store(turned, vector, step * lanes + i, r)
            for d in range(size // lanes * lanes, size):
                for i in range(lanes):
                    store(turned, row(r + i, d, 1), d, r + i)

        def at(d: Expr) -> list[Expr]:
            near = registers(rows)
            for r in range(0, rows, lanes):
                store(near, load(turned, d, r, lanes=lanes), r)
            return [near[r] for r in range(rows)]
        return at

    def _q_len_fits(self) -> bool:
        return isinstance(self.q_len, int) and self.q_len % self.point.rows == 0

    def _scores(
        self, panels: Buffer, queries: Callable[[Expr], list[Expr]], scratch: Buffer,
        mask: Buffer | None, place: Place, panel: Expr, chunk: Expr,
    ) -> None:
        """scratch[:, chunk] = mask + queries @ one panel of keys."""
        rows, keys, lanes = self.point.rows, self.point.keys, self.lanes
        pair = place.batch * self.workload.kv_heads + place.kv_head
        start = self.inputs.fill_mask(
            mask, place.batch, place.head, place.first, panel * keys, lanes)
        sums = Tile(rows, keys)
        for r in range(rows):
            for column in range(0, keys, lanes):
                sums.store(start(r, column), r, column)

        def add(d: Expr) -> None:
            numbers = queries(d)
            for r in range(rows):
                for column in range(0, keys, lanes):
                    key = load(panels, pair, panel, d, column, lanes=lanes)
                    sums.add(splat(numbers[r], lanes) * key, r, column)

        with loop(self.size // self.unroll) as step:
            for u in range(self.unroll):
                add(step * self.unroll + u)
        for d in range(self.size // self.unroll * self.unroll, self.size):
            add(d)
        for r in range(rows):
            for column in range(0, keys, lanes):
                store(scratch, sums.load(r, column, lanes), r, chunk * keys + column)

    def _weigh(
        self, scratch: Buffer, softmax: RunningSoftmax, place: Place, start: Expr, count: Expr
    ) -> None:
        """Add a block's weights @ values to the results, or write them where it is the only one."""
        rows = min(self.point.value_rows, self.point.rows)
        for column, width, vectors, groups in _groups(
            self.workload.value_size, self.lanes, self.point.columns
        ):
            with loop(groups) as group:
                first = column + group * vectors * width
                with loop(self.point.rows // rows) as part:
                    self._weigh_tile(scratch, softmax, place, start, count,
                                     part * rows, rows, first, width, vectors)
                if rest := self.point.rows % rows:
                    self._weigh_tile(scratch, softmax, place, start, count,
                                     self.point.rows - rest, rest, first, width, vectors)

    def _weigh_tile(
        self, scratch: Buffer, softmax: RunningSoftmax, place: Place, start: Expr, count: Expr,
        row: Expr, rows: int, column: Expr, width: int, vectors: int,
    ) -> None:
        """`rows` x `vectors` of the results from (row, column) on."""
        sums = Tile(rows, vectors * width)
        for r in range(rows):
            for v in range(vectors):
                held = splat(0.0, width)
                if not self.single:
                    old = load(scratch, row + r, self.results + column + v * width, lanes=width)
                    held = old * splat(softmax.scale[row + r], width)
                sums.store(held, r, v * width)

        def add(key: Expr, numbers: list[Expr]) -> None:
            for r, number in enumerate(numbers):
                for v in range(vectors):
                    value = self.inputs.v(
                        place.batch, start + key, place.kv_head, column + v * width, width)
                    sums.add(splat(number, width) * value, r, v * width)

        steps = 4 if self.by_lane else 1
        with loop(count // steps) as step:
            if self.by_lane:
                near = Tile(rows, steps)
                for r in range(rows):
                    near.store(load(scratch, row + r, step * steps, lanes=steps), r, 0)
                for u in range(steps):
                    add(step * steps + u, [near.load(r, u, 1) for r in range(rows)])
            else:
                add(step, [scratch[row + r, step] for r in range(rows)])
        if steps > 1:
            with loop(count % steps) as rest:
                key = count // steps * steps + rest
                add(key, [scratch[row + r, key] for r in range(rows)])
        for r in range(rows):
            for v in range(vectors):
                value, at = sums.load(r, v * width, width), column + v * width
                if self.single:
                    self._write(softmax, value, place, row + r, at)
                else:
                    store(scratch, value, row + r, self.results + at)

    def _write(
        self, softmax: RunningSoftmax, value: Expr, place: Place, row: Expr, column: Expr
    ) -> None:
        with when(self._q_len_fits() or place.first + row < self.q_len):
            value = value * splat(softmax.share(row), lanes_of(value))
            store(self.inputs.out, value, place.batch, place.first + row, place.head, column)


def _vectors(size: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """(start, lanes, count) of the vectors that cover `size`: whole ones, then halves of halves."""
    start = 0
    while start < size:
        if count := (size - start) // lanes:
            yield start, lanes, count
        start += count * lanes
        lanes //= 2


def _groups(size: int, lanes: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, lanes, vectors, count) of the groups of columns, each at most `columns` wide."""
    most = columns // lanes
    for start, width, count in _vectors(size, lanes):
        if count >= most:
            yield start, width, most, count // most
        if count % most:
            yield start + count // most * most * width, width, count % most, 1
