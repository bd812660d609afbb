"""Fused attention: scores, softmax and weighted sum of a few queries at a time, inside the cache.

The keys are first laid out as panels [panel, head_size, key of the panel], as GEMM weights are.
Then a tile of queries walks over blocks of keys and keeps, per query, the greatest score so far,
the sum of exponentials and the weighted sum; when the greatest score grows, the sums are scaled
down (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import tirx

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_softmax import RunningSoftmax
from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    STACK,
    Buffer,
    Expr,
    Kernel,
    Tile,
    ceil_div,
    lanes_of,
    load,
    loop,
    parallel_loop,
    prim_func,
    registers,
    splat,
    store,
    transpose,
    when,
    workspace,
)
from pocketformer.schedules.workloads import Attention

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16      # multiply-adds


@dataclass(frozen=True)
class FusedAttention:
    """`rows` x `keys` scores, later `value_rows` x `columns` of the result, are held in registers;
    softmax runs over `block` keys at a time."""

    isa: str
    rows: int
    keys: int
    value_rows: int
    columns: int
    block: int

    @property
    def name(self) -> str:
        scores, result = f"{self.rows}x{self.keys}", f"{self.value_rows}x{self.columns}"
        return f"f32_attention_{scores}v{result}b{self.block}_{self.isa}"

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Attention)

    @classmethod
    def space(cls, target: Target, workload: Attention) -> Iterator[FusedAttention]:
        default = cls.default(target, workload)
        for blocks in (4, 8, 16, 32):
            yield replace(default, block=blocks * default.keys)

    @classmethod
    def default(cls, target: Target, workload: Attention) -> FusedAttention:
        isa = isa_of(target)
        rows, keys = isa.attention_tile
        if workload.q_len is not None and workload.q_len < rows:
            step = isa.lanes if isa.by_lane else 1
            rows = ceil_div(workload.q_len, step) * step
        # The block's scores take half of a first cache of 32 KiB.
        return cls(isa.name, rows, keys, *isa.value_tile, (1 << 12) // rows // keys * keys)

    def kernel(self, workload: Attention, target: Target) -> Kernel:
        return Kernel(self.name, self.build(workload, target))

    def build(self, workload: Attention, target: Target) -> tirx.PrimFunc:
        """q, k, v (or qkv), mask? -> out."""
        with prim_func(self.name) as function:
            _Writer(self, workload, Inputs(function, workload)).write()
        return function.func


class _Writer:
    """Writes one attention kernel."""

    def __init__(self, point: FusedAttention, workload: Attention, inputs: Inputs) -> None:
        self.point, self.workload, self.inputs = point, workload, inputs
        self.lanes = isa_named(point.isa).lanes
        self.by_lane = isa_named(point.isa).by_lane
        self.unroll = isa_named(point.isa).unroll
        self.batch, self.q_len, self.kv_len = inputs.batch, inputs.q_len, inputs.kv_len
        self.panels = ceil_div(self.kv_len, point.keys)
        self.block_panels = point.block // point.keys
        self.size = workload.head_size
        # All keys at once: nothing is rescaled, and a tile goes from registers to the output.
        self.single = isinstance(self.kv_len, int) and self.kv_len <= point.block

    def write(self) -> None:
        work, point = self.workload, self.point
        tiles = ceil_div(self.q_len, point.rows)
        share = not all(isinstance(size, int) for size in (self.batch, tiles, self.kv_len)) or (
            self.batch * self.q_len * self.kv_len * work.heads * work.head_size >= WORTH_SHARING)
        panels = workspace(self.batch * work.kv_heads, self.panels, self.size, point.keys)
        with parallel_loop(self.batch * work.kv_heads, share) as pair:
            self._lay_out_keys(panels, pair)
        with parallel_loop(self.batch * work.heads * tiles, share) as task:
            pair, tile = task // tiles, task % tiles
            batch, head = pair // work.heads, pair % work.heads
            kv_head = head // (work.heads // work.kv_heads)
            self._tile(panels, batch, head, kv_head, tile * point.rows)

    def _lay_out_keys(self, panels: Buffer, pair: Expr) -> None:
        """panels[pair, panel, d, key]; keys past the end repeat the last one, their weight is 0."""
        lanes, size = self.lanes, self.size
        batch, head = pair // self.workload.kv_heads, pair % self.workload.kv_heads
        with loop(self.panels) as panel:
            for column in range(0, self.point.keys, lanes):
                def key(i: int, d: Expr, width: int, column: int = column) -> Expr:
                    at = tirx.min(panel * self.point.keys + column + i, self.kv_len - 1)
                    return self.inputs.k(batch, at, head, d, width)

                with loop(size // lanes) as step:
                    square = [key(i, step * lanes, lanes) for i in range(lanes)]
                    for i, vector in enumerate(transpose(square)):
                        store(panels, vector, pair, panel, step * lanes + i, column)
                for d in range(size // lanes * lanes, size):
                    for i in range(lanes):
                        store(panels, key(i, d, 1), pair, panel, d, column + i)

    def _tile(
        self, panels: Buffer, batch: Expr, head: Expr, kv_head: Expr, first: Expr
    ) -> None:
        """All keys for the `rows` queries from `first` on."""
        work, point, lanes = self.workload, self.point, self.lanes
        queries = self._queries(batch, head, first)
        weights = workspace(point.rows, point.block + lanes)    # rows in different cache sets
        mask = self.inputs.mask_buffer(point.rows, point.keys)
        softmax = RunningSoftmax(point.rows, point.keys, lanes)
        result = None if self.single else self._empty_result()
        visible = self.kv_len
        if work.causal:
            last = tirx.min(first + point.rows, self.q_len) - 1
            visible = tirx.max(tirx.min(last + self.inputs.past + 1, self.kv_len), 0)
        pair = batch * work.kv_heads + kv_head

        def take(block: Expr, count: Expr) -> None:
            chunks = ceil_div(count, point.keys)
            with loop(chunks) as chunk:
                panel = block * self.block_panels + chunk
                self._scores(
                    panels, queries, weights, mask, batch, head, first, pair, panel, chunk)
            softmax.take(weights, chunks)
            for column, width, vectors in _groups(work.value_size, lanes, point.columns):
                for row in range(0, point.rows, point.value_rows):
                    rows = range(row, min(row + point.value_rows, point.rows))
                    sums = self._weigh(weights, result, softmax, batch, kv_head,
                                       block * point.block, count, rows, column, width, vectors)
                    for i, r in enumerate(rows):
                        for v in range(vectors):
                            at, value = column + v * width, sums.load(i, v * width, width)
                            if result is None:
                                self._write(softmax, value, batch, head, first, r, at)
                            else:
                                result.store(value, r, at)

        if result is None:
            take(0, visible)
            return
        with loop(ceil_div(visible, point.block)) as block:
            take(block, tirx.min(visible - block * point.block, point.block))
        for r in range(point.rows):
            for at, width in _widths(work.value_size, lanes):
                self._write(softmax, result.load(r, at, width), batch, head, first, r, at)

    def _empty_result(self) -> Tile:
        result = Tile(self.point.rows, self.workload.value_size)
        for row in range(self.point.rows):
            for start, width in _widths(self.workload.value_size, self.lanes):
                result.store(splat(0.0, width), row, start)
        return result

    def _queries(self, batch: Expr, head: Expr, first: Expr) -> Callable[[Expr], list[Expr]]:
        """The scaled queries of a tile; gives those at d, and repeats the last past the end."""
        rows, lanes, size = self.point.rows, self.lanes, self.size

        def row(r: Expr, d: Expr, width: int) -> Expr:
            at = first + r if self._q_len_fits() else tirx.min(first + r, self.q_len - 1)
            return self.inputs.q(batch, at, head, d, width) * splat(self.workload.scale, width)

        if not self.by_lane:
            small = 4 * size < STACK
            held = [registers(size) if small else workspace(size) for _ in range(rows)]
            for r in range(rows):
                for d, width in _widths(size, lanes):
                    store(held[r], row(r, d, width), d)
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
        self, panels: Buffer, queries: Callable[[Expr], list[Expr]], weights: Buffer,
        mask: Buffer | None, batch: Expr, head: Expr, first: Expr, pair: Expr, panel: Expr,
        chunk: Expr,
    ) -> None:
        """weights[:, chunk] = mask + queries @ one panel of keys."""
        rows, keys, lanes = self.point.rows, self.point.keys, self.lanes
        start = self.inputs.fill_mask(mask, batch, head, first, panel * keys, lanes)
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
                store(weights, sums.load(r, column, lanes), r, chunk * keys + column)

    def _weigh(
        self, weights: Buffer, result: Tile | None, softmax: RunningSoftmax, batch: Expr,
        head: Expr, start: Expr, count: Expr, rows: range, column: int, width: int, vectors: int,
    ) -> Tile:
        """result[rows, columns] * scale + weights @ the block's values."""
        sums = Tile(len(rows), vectors * width)
        for i, r in enumerate(rows):
            for v in range(vectors):
                held = splat(0.0, width)
                if result is not None:
                    old = result.load(r, column + v * width, width)
                    held = old * splat(softmax.scale[r], width)
                sums.store(held, i, v * width)

        def add(key: Expr, numbers: list[Expr]) -> None:
            for i, number in enumerate(numbers):
                for v in range(vectors):
                    value = self.inputs.v(batch, start + key, head, column + v * width, width)
                    sums.add(splat(number, width) * value, i, v * width)

        steps = 4 if self.by_lane else 1
        with loop(count // steps) as step:
            if self.by_lane:
                near = Tile(len(rows), steps)
                for i, r in enumerate(rows):
                    near.store(load(weights, r, step * steps, lanes=steps), i, 0)
                for u in range(steps):
                    add(step * steps + u, [near.load(i, u, 1) for i in range(len(rows))])
            else:
                add(step, [weights[r, step] for r in rows])
        if steps > 1:
            with loop(count % steps) as rest:
                key = count // steps * steps + rest
                add(key, [weights[r, key] for r in rows])
        return sums

    def _write(
        self, softmax: RunningSoftmax, value: Expr, batch: Expr, head: Expr, first: Expr,
        row: int, column: int,
    ) -> None:
        with when(self._q_len_fits() or first + row < self.q_len):
            value = value * splat(softmax.share(row), lanes_of(value))
            store(self.inputs.out, value, batch, first + row, head, column)


def _widths(size: int, lanes: int) -> Iterator[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `size`: whole ones, then halves of halves."""
    start = 0
    while start < size:
        while lanes > size - start:
            lanes //= 2
        yield start, lanes
        start += lanes


def _groups(size: int, lanes: int, columns: int) -> Iterator[tuple[int, int, int]]:
    """(start, lanes, vectors) of the column groups, each at most `columns` wide."""
    full = list(_widths(size, lanes))
    whole = [start for start, width in full if width == lanes]
    most = columns // lanes
    for i in range(0, len(whole), most):
        yield whole[i], lanes, min(most, len(whole) - i)
    for start, width in full:
        if width < lanes:
            yield start, width, 1
