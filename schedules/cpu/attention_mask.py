"""The mask of attention as tiles of scores start from it: keys below, queries along the vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_softmax import LOG2E, LOWEST
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    load,
    loop,
    registers,
    splat,
    store,
    transpose,
    workspace,
)
from pocketformer.schedules.cpu.math import MAGNITUDE

if TYPE_CHECKING:
    from pocketformer.schedules.cpu.attention_scores import Place

# A key whose mask is less than the greatest one by more than this has no weight: scores that made
# up for it would be so large that float32 tells them apart in steps of 32.
BESIDE = 5e8


class Mask:
    """A mask of all queries is made ready once, one of each query tile by tile."""

    def __init__(self, inputs: Inputs, keys: int, queries: int, lanes: int) -> None:
        self.inputs, self.keys, self.queries, self.lanes = inputs, keys, queries, lanes
        self.by_query = inputs.mask_axes[2]
        self.ready: Buffer | None = None
        self.tile: Buffer | None = None
        self._counted: Buffer | None = None

    def prepare(self) -> None:
        """Outside of all tiles: what is added to the scores of every query."""
        inputs = self.inputs
        if inputs.mask is None or self.by_query:
            return
        batches, heads = (int(s) if isinstance(s, int) else s for s in inputs.mask.shape[:2])
        self.ready = workspace(batches, heads, inputs.kv_len)
        with loop(batches * heads) as row:
            batch, head = row // heads, row % heads
            whole = inputs.kv_len // self.lanes
            with loop(whole) as i:
                store(self.ready, inputs.masked(batch, head, 0, i * self.lanes, self.lanes),
                      batch, head, i * self.lanes)
            with loop(inputs.kv_len % self.lanes) as i:
                at = whole * self.lanes + i
                store(self.ready, inputs.masked(batch, head, 0, at, 1), batch, head, at)

    def prepare_ranges(self) -> None:
        """Outside of all tiles, after `prepare`: which keys have a weight for any query."""
        ready, inputs = self.ready, self.inputs
        # A causal query may see no key but those of finite values: then they have weights, too.
        if ready is None or inputs.mask_axes[1] or inputs.may_lose:
            return
        self._counted = workspace(ready.shape[0], inputs.kv_len, dtype="int32")
        least = registers(1)
        with loop(ready.shape[0]) as batch:
            store(least, T.float32(LOWEST), 0)
            with loop(inputs.kv_len) as key:
                beside = ready[batch, 0, key] - T.float32(BESIDE * LOG2E)
                store(least, tirx.max(least[0], beside), 0)
            with loop(inputs.kv_len) as key:
                hidden = ready[batch, 0, key] < least[0]
                bits = tirx.Select(hidden, T.int32(0), T.int32(MAGNITUDE))
                store(self._counted, bits, batch, key)

    def counted(self, batch: Expr, key: Expr) -> Expr:
        """The bits of the numbers of a key, and of its value, that count in a range."""
        if self._counted is None:
            return T.int32(MAGNITUDE)
        return self._counted[batch if self.inputs.mask_axes[0] else 0, key]

    def begin(self) -> None:
        """Inside of a tile, outside of its loops."""
        if self.by_query:
            self.tile = workspace(self.keys, self.queries)

    def scores(self, place: Place, key: Expr) -> Callable[[int, int], Expr]:
        """The vector of queries from `column` on at key `key + i`, as a function of both."""
        lanes = self.lanes
        if self.ready is not None:
            ready, axes = self.ready, self.inputs.mask_axes
            batch, head = (at if full else 0 for at, full in zip(
                (place.batch, place.head), axes[:2], strict=True))
            if self.keys % lanes:
                return lambda i, column: splat(ready[batch, head, key + i], lanes)
            near = registers(self.keys)
            for i in range(0, self.keys, lanes):
                store(near, load(ready, batch, head, key + i, lanes=lanes), i)
            return lambda i, column: splat(near[i], lanes)
        if self.tile is None:
            return lambda i, column: splat(0.0, lanes)
        self._fill(place, key)
        return lambda i, column: load(self.tile, i, column, lanes=lanes)

    def _fill(self, place: Place, key: Expr) -> None:
        side = self.lanes
        while side > self.keys:
            side //= 2

        def row(at: Expr, first: Expr, width: int) -> Expr:
            at = tirx.min(place.first + at, self.inputs.q_len - 1)
            return self.inputs.masked(place.batch, place.head, at, first, width)

        squares = self.keys // side * side
        for column in range(0, self.queries, side):
            for i in range(0, squares, side):
                square = [row(column + r, key + i, side) for r in range(side)]
                for u, vector in enumerate(transpose(square)):
                    store(self.tile, vector, i + u, column)
        if squares < self.keys:
            with loop(self.queries) as r, loop(self.keys - squares) as i:
                store(self.tile, row(r, key + squares + i, 1), squares + i, r)
