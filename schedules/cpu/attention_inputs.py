"""Where an attention kernel finds queries, keys, values and mask, separate or packed."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.kernel import (
    STACK,
    Buffer,
    Builder,
    Expr,
    load,
    loop,
    registers,
    splat,
    store,
    workspace,
)
from pocketformer.schedules.workloads import Attention

HIDDEN = float("-inf")


class Inputs:
    """Takes all arguments of `function` in the order of the workload, `out` last."""

    def __init__(self, function: Builder, workload: Attention) -> None:
        work = workload
        self.workload = work
        self.batch = function.size("batch", work.batch)
        self.kv_len = function.size("kv_len", work.kv_len)
        self.q_len = self.kv_len if work.packed else function.size("q_len", work.q_len)
        self.past = self.kv_len - self.q_len
        self.qkv: Buffer | None = None
        if work.packed:
            self.qkv = function.argument(
                "qkv", (self.batch, self.q_len, 3, work.heads, work.head_size))
        else:
            self.query = function.argument(
                "q", (self.batch, self.q_len, work.heads, work.head_size))
            self.key = function.argument(
                "k", (self.batch, self.kv_len, work.kv_heads, work.head_size))
            self.value = function.argument(
                "v", (self.batch, self.kv_len, work.kv_heads, work.value_size))
        self.mask: Buffer | None = None
        if work.mask is not None:
            sizes = (self.batch, work.heads, self.q_len, self.kv_len)
            self.full = (*work.mask, True)[:4]
            self.mask = function.argument(
                "mask", [size if full else 1 for size, full in zip(sizes, self.full, strict=True)],
                work.mask_dtype)
        self.out = function.argument("out", (self.batch, self.q_len, work.heads, work.value_size))

    def q(self, batch: Expr, at: Expr, head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return load(self.qkv, batch, at, 0, head, d, lanes=lanes)
        return load(self.query, batch, at, head, d, lanes=lanes)

    def k(self, batch: Expr, at: Expr, head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return load(self.qkv, batch, at, 1, head, d, lanes=lanes)
        return load(self.key, batch, at, head, d, lanes=lanes)

    def v(self, batch: Expr, at: Expr, head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return load(self.qkv, batch, at, 2, head, d, lanes=lanes)
        return load(self.value, batch, at, head, d, lanes=lanes)

    def mask_buffer(self, rows: int, keys: int) -> Buffer | None:
        """Room for what a tile of scores starts from: one row where all queries share it."""
        by_row = self.workload.causal or (self.mask is not None and self.full[2])
        if self.mask is None and not by_row and self._fits(keys):
            return None
        height = rows if by_row else 1
        return registers(height, keys) if 4 * height * keys < STACK else workspace(height, keys)

    def _fits(self, keys: int) -> bool:
        return isinstance(self.kv_len, int) and self.kv_len % keys == 0

    def fill_mask(
        self, tile: Buffer | None, batch: Expr, head: Expr, first: Expr, key: Expr, lanes: int
    ) -> Callable[[int, int], Expr]:
        """What a tile of scores starts from: the mask, and -inf for keys that a query may not see.

        The tile begins at query `first` and key `key`. Gives the vector at (row, column).
        """
        if tile is None:
            return lambda row, column: splat(0.0, lanes)
        height, keys = map(int, tile.shape)

        def fill(edge: bool) -> None:
            with loop(height) as r:
                for column in range(0, keys, lanes):
                    store(tile, self._start(batch, head, first + r, key + column, lanes, edge),
                          r, column)

        def fill_singly() -> None:
            with loop(height) as r, loop(keys) as column:
                seen = self._visible(first + r, key + column)
                value = self._mask_value(batch, head, first + r, key + column, 1)
                store(tile, tirx.if_then_else(seen, value, T.float32(HIDDEN)), r, column)

        masked_keys = self.mask is not None and self.full[3]
        if self._fits(keys) and not self.workload.causal:
            fill(False)
        else:
            inside = key + keys <= self.kv_len
            if self.workload.causal:
                inside = tirx.all(inside, key + (keys - 1) <= first + self.past)
            with T.If(inside):
                with T.Then():
                    fill(False)
                with T.Else():
                    if masked_keys:
                        fill_singly()       # a vector could reach past the end of the mask
                    else:
                        fill(True)
        return lambda row, column: load(tile, row if height > 1 else 0, column, lanes=lanes)

    def _start(
        self, batch: Expr, head: Expr, row: Expr, key: Expr, lanes: int, edge: bool
    ) -> Expr:
        value = self._mask_value(batch, head, row, key, lanes)
        if not edge:
            return value
        seen = self._visible(row, T.ramp(key, 1, lanes), lanes)
        return tirx.Select(seen, value, splat(HIDDEN, lanes))

    def _visible(self, row: Expr, key: Expr, lanes: int = 1) -> Expr:
        """Whether the key exists and `causal` lets the query see it."""
        end = self.kv_len
        if self.workload.causal:
            end = tirx.min(end, row + self.past + 1)
        return key < (T.broadcast(end, lanes) if lanes > 1 else end)

    def _mask_value(self, batch: Expr, head: Expr, row: Expr, key: Expr, lanes: int) -> Expr:
        if self.mask is None:
            return splat(0.0, lanes)
        places = (batch, head, tirx.min(row, self.q_len - 1), key)
        index = [place if full else 0 for place, full in zip(places, self.full, strict=True)]
        if self.full[3]:
            value = load(self.mask, *index, lanes=lanes)
        else:
            value = self.mask[tuple(index)]
            value = T.broadcast(value, lanes) if lanes > 1 else value
        if self.workload.mask_dtype == "bool":
            return tirx.Select(value, splat(0.0, lanes), splat(HIDDEN, lanes))
        return value
