"""Where an attention kernel finds queries, keys, values and mask, separate or packed."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_softmax import HIDDEN, LOG2E, LOWEST
from pocketformer.schedules.cpu.kernel import Buffer, Builder, Expr, load, splat
from pocketformer.schedules.workloads import Attention

LOST = -1e30        # added to a score it leaves nothing of it


class Inputs:
    """Takes all arguments of `function` in the order of the workload, `out` last."""

    def __init__(self, function: Builder, workload: Attention) -> None:
        work = workload
        self.workload = work
        self.batch = function.size("batch", work.batch)
        self.kv_len = function.size("kv_len", work.kv_len)
        self.q_len = self.kv_len if work.packed else function.size("q_len", work.q_len)
        self.past = self.kv_len - self.q_len
        self.group = work.heads // work.kv_heads
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
        # Which of batch, head, query and key it has in full.
        self.mask_axes: tuple[bool, ...] = (False,) * 4
        if work.mask is not None:
            sizes = (self.batch, work.heads, self.q_len, self.kv_len)
            self.mask_axes = (*work.mask, True)[:4]
            shape = [size if full else 1 for size, full in zip(sizes, self.mask_axes, strict=True)]
            self.mask = function.argument("mask", shape, work.mask_dtype)
        self.out = function.argument("out", (self.batch, self.q_len, work.heads, work.value_size))

    def q(self, batch: Expr, at: Expr, head: Expr, d: Expr, lanes: int) -> Expr:
        """Of the query `at`, times what makes scores of it."""
        if self.qkv is not None:
            value = load(self.qkv, batch, at, 0, head, d, lanes=lanes)
        else:
            value = load(self.query, batch, at, head, d, lanes=lanes)
        return value * splat(self.workload.scale * LOG2E, lanes)

    def k(self, batch: Expr, at: Expr, kv_head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return load(self.qkv, batch, at, 1, kv_head, d, lanes=lanes)
        return load(self.key, batch, at, kv_head, d, lanes=lanes)

    def v(self, batch: Expr, at: Expr, kv_head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return load(self.qkv, batch, at, 2, kv_head, d, lanes=lanes)
        return load(self.value, batch, at, kv_head, d, lanes=lanes)

    def masked(self, batch: Expr, head: Expr, row: Expr, key: Expr, lanes: int) -> Expr:
        """What the mask adds to the scores of `row` for `lanes` keys."""
        if self.mask is None:
            return splat(0.0, lanes)
        index: list[Any] = [place if full else 0 for place, full in zip(
            (batch, head, row, key), self.mask_axes, strict=True)]
        if self.mask_axes[3]:
            value = load(self.mask, *index, lanes=lanes)
        else:
            value = splat(self.mask[tuple(index)], lanes)
        if self.workload.mask_dtype == "bool":
            return tirx.Select(value, splat(0.0, lanes), splat(HIDDEN, lanes))
        return _scaled(value, lanes)

    @property
    def may_lose(self) -> bool:
        """Whether a mask may leave a causal query no key but by finite values."""
        return self.workload.causal and self.mask is not None and (
            self.workload.mask_dtype == "float32")

    def lost(self, greatest: Expr, total: Expr) -> Expr:
        """Whether it did so for a query with these results: later keys then weigh as much."""
        return tirx.all(greatest < T.float32(LOST), total > T.float32(0.5))

    def seen(self, row: Expr) -> Expr:
        """How many keys `row` sees: those before this one."""
        if not self.workload.causal:
            return self.kv_len
        return tirx.max(tirx.min(row + self.past + 1, self.kv_len), 0)


def _scaled(mask: Expr, lanes: int) -> Expr:
    """`mask` * log2(e); what is finite stays so, as only -inf hides a key from its whole row."""
    value = T.bind(mask)
    scaled = tirx.max(value * splat(LOG2E, lanes), splat(LOWEST, lanes))
    return tirx.Select(value == splat(HIDDEN, lanes), splat(HIDDEN, lanes), scaled)
