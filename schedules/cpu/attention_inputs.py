"""Where an attention kernel finds queries, keys, values and mask, separate or packed."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_softmax import HIDDEN, LOG2E, LOWEST, share
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Builder,
    Expr,
    lanes_of,
    load,
    splat,
    store,
    typed,
)
from pocketformer.schedules.cpu.neon_stores import WIDE, NeonIntegers
from pocketformer.schedules.cpu.short_stores import Integers, bfloat16
from pocketformer.schedules.workloads import Attention

LOST = -1e30        # added to a score it leaves nothing of it


class Inputs:
    """Takes all arguments of `function` in the order of the workload, `out` last.

    With `neon`, what is written as int8 is rounded by instructions of 64-bit Arm.
    """

    def __init__(self, function: Builder, workload: Attention, neon: bool = False) -> None:
        work = workload
        self.neon = neon and work.out_dtype == "int8" and work.value_size % 4 == 0
        self.workload = work
        self.batch = function.size("batch", work.batch)
        self.kv_len = function.size("kv_len", work.kv_len)
        self.q_len = self.kv_len if work.packed else function.size("q_len", work.q_len)
        self.past = self.kv_len - self.q_len
        self.group = work.heads // work.kv_heads
        self.qkv: Buffer | None = None
        dtype = work.in_dtype
        if work.packed:
            self.qkv = function.argument(
                "qkv", (self.batch, self.q_len, 3, work.heads, work.head_size), dtype)
        else:
            self.query = function.argument(
                "q", (self.batch, self.q_len, work.heads, work.head_size), dtype)
            self.key = function.argument(
                "k", (self.batch, self.kv_len, work.kv_heads, work.head_size), dtype)
            self.value = function.argument(
                "v", (self.batch, self.kv_len, work.kv_heads, work.value_size), dtype)
        self.mask: Buffer | None = None
        # Which of batch, head, query and key it has in full.
        self.mask_axes: tuple[bool, ...] = (False,) * 4
        if work.mask is not None:
            sizes = (self.batch, work.heads, self.q_len, self.kv_len)
            self.mask_axes = (*work.mask, True)[:4]
            shape = [size if full else 1 for size, full in zip(sizes, self.mask_axes, strict=True)]
            self.mask = function.argument("mask", shape, work.mask_dtype)
        self.scales = function.argument("scales", (2,)) if dtype == "int8" else None
        self.out = self._output(function)

    def _output(self, function: Builder) -> Buffer:
        """With what is needed to write it."""
        work = self.workload
        shape = (self.batch, self.q_len, work.heads, work.value_size)
        self.integers: Integers | None = None
        if work.out_dtype != "int8":
            return function.argument("out", shape, work.out_dtype)
        self.out_factor = function.argument("out_factor", (work.heads * work.value_size,))
        out_zero = function.argument("out_zero", (1,), "int32")
        out = function.argument("out", shape, work.out_dtype)
        self.integers = Integers.of(out_zero[0], work.out_dtype)
        if self.neon:
            self.neon_integers = NeonIntegers.of(out_zero[0], work.out_dtype)
            self.out_words = T.decl_buffer(
                (*shape[:-1], work.value_size // 4), "int32", data=out.data)
        return out

    @property
    def unit(self) -> Expr:
        """What makes scores, in powers of two, of queries times keys."""
        if self.scales is None:
            return T.float32(self.workload.scale * LOG2E)
        return self.scales[0] * T.float32(LOG2E)

    def share(self, total: Expr, lanes: int) -> Expr:
        """What sums of values are multiplied with whose weights add up to `total`."""
        of_one = share(total, lanes)
        return of_one if self.scales is None else of_one * splat(self.scales[1], lanes)

    def write(self, value: Expr, batch: Expr, at: Expr, head: Expr, column: Expr) -> None:
        """A vector of the result of query `at`."""
        if self.integers is not None:
            first = head * self.workload.value_size + column
            value = value * load(self.out_factor, first, lanes=lanes_of(value))
            if self.neon and lanes_of(value) == 4:
                word = self.neon_integers(value)
                store(self.out_words, word, batch, at, head, column // 4)
                return
            wide = self.neon and lanes_of(value) == WIDE
            value = self.neon_integers(value) if wide else self.integers(value)
        elif self.workload.out_dtype == "bfloat16":
            value = bfloat16(value)
        store(self.out, value, batch, at, head, column)

    def scaled_q(self, batch: Expr, at: Expr, head: Expr, d: Expr, lanes: int) -> Expr:
        """Of the query `at`, times what makes scores of it."""
        return widened(self.q(batch, at, head, d, lanes)) * splat(self.unit, lanes)

    def q(self, batch: Expr, at: Expr, head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return _numbers(self.qkv, batch, at, 0, head, d, lanes=lanes)
        return _numbers(self.query, batch, at, head, d, lanes=lanes)

    def k(self, batch: Expr, at: Expr, kv_head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return _numbers(self.qkv, batch, at, 1, kv_head, d, lanes=lanes)
        return _numbers(self.key, batch, at, kv_head, d, lanes=lanes)

    def v(self, batch: Expr, at: Expr, kv_head: Expr, d: Expr, lanes: int) -> Expr:
        if self.qkv is not None:
            return _numbers(self.qkv, batch, at, 2, kv_head, d, lanes=lanes)
        return _numbers(self.value, batch, at, kv_head, d, lanes=lanes)

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


def _numbers(buffer: Buffer, *index: Expr, lanes: int) -> Expr:
    """Of an input, as they are; of bfloat16, their bits as uint16.

    TVM does not see bfloat16 in what is bound to a variable: it would take the bits for a number.
    """
    value = load(buffer, *index, lanes=lanes)
    return tirx.reinterpret(typed("uint16", lanes), value) if buffer.dtype == "bfloat16" else value


def widened(value: Expr) -> Expr:
    """Numbers of an input as float32."""
    lanes = lanes_of(value)
    if not str(value.ty).startswith("uint16"):
        return value.astype(typed("float32", lanes))
    bits = value.astype(typed("uint32", lanes)) << tirx.const(16, typed("uint32", lanes))
    return tirx.reinterpret(typed("float32", lanes), bits)


def _scaled(mask: Expr, lanes: int) -> Expr:
    """`mask` * log2(e); what is finite stays so, as only -inf hides a key from its whole row."""
    value = T.bind(mask)
    scaled = tirx.max(value * splat(LOG2E, lanes), splat(LOWEST, lanes))
    return tirx.Select(value == splat(HIDDEN, lanes), splat(HIDDEN, lanes), scaled)
