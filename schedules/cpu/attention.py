"""Fused attention: scores, softmax and weighted sum of a few queries at a time, inside the cache.

The keys are first laid out as panels [panel, head_size, key of the panel], as GEMM weights are.
Then a tile of queries walks over blocks of keys and keeps, per query, the greatest score so far,
the sum of exponentials and the weighted sum; when the greatest score grows, the sums are scaled
down (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tvm import tirx

from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_tile import Place, TileWriter
from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Buffer,
    Expr,
    Kernel,
    ceil_div,
    loop,
    parallel_loop,
    prim_func,
    store,
    transpose,
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
            self._write(workload, Inputs(function, workload))
        return function.func

    def _write(self, work: Attention, inputs: Inputs) -> None:
        batch, q_len, kv_len = inputs.batch, inputs.q_len, inputs.kv_len
        tiles = ceil_div(q_len, self.rows)
        share = not all(isinstance(size, int) for size in (batch, tiles, kv_len)) or (
            batch * q_len * kv_len * work.heads * work.head_size >= WORTH_SHARING)
        panels = workspace(
            batch * work.kv_heads, ceil_div(kv_len, self.keys), work.head_size, self.keys)
        with parallel_loop(batch * work.kv_heads, share) as pair:
            self._lay_out_keys(inputs, panels, pair // work.kv_heads, pair % work.kv_heads)
        writer = TileWriter(self, work, inputs)
        with parallel_loop(batch * work.heads * tiles, share) as task:
            pair, tile = task // tiles, task % tiles
            row, head = pair // work.heads, pair % work.heads
            kv_head = head // (work.heads // work.kv_heads)
            writer.write(panels, Place(row, head, kv_head, tile * self.rows))

    def _lay_out_keys(self, inputs: Inputs, panels: Buffer, batch: Expr, head: Expr) -> None:
        """panels[pair, panel, d, key]; keys past the end repeat the last one, their weight is 0."""
        lanes, size = isa_named(self.isa).lanes, inputs.workload.head_size
        pair = batch * inputs.workload.kv_heads + head
        with loop(ceil_div(inputs.kv_len, self.keys)) as panel:
            for column in range(0, self.keys, lanes):
                def key(i: int, d: Expr, width: int, column: int = column) -> Expr:
                    at = tirx.min(panel * self.keys + column + i, inputs.kv_len - 1)
                    return inputs.k(batch, at, head, d, width)

                with loop(size // lanes) as step:
                    square = [key(i, step * lanes, lanes) for i in range(lanes)]
                    for i, vector in enumerate(transpose(square)):
                        store(panels, vector, pair, panel, step * lanes + i, column)
                for d in range(size // lanes * lanes, size):
                    for i in range(lanes):
                        store(panels, key(i, d, 1), pair, panel, d, column + i)
