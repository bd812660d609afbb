"""Fused attention: scores, softmax and weighted sum of a few queries at a time, inside the cache.

A tile of queries walks over blocks of keys and keeps, per query, the greatest score so far, the sum
of exponentials and the weighted sum; when the greatest score grows, the sums are scaled down
(Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). The queries of a tile
lie along the vectors, so that all of them are compared and summed up at once. Few queries take
their keys row by row, where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.attention_dots import instruction_of, products_of, tile_of
from pocketformer.schedules.cpu.attention_inputs import Inputs
from pocketformer.schedules.cpu.attention_mask import Mask
from pocketformer.schedules.cpu.attention_panels import Keys, Values
from pocketformer.schedules.cpu.attention_products import Products, in_float32
from pocketformer.schedules.cpu.attention_ranges import finds_ranges
from pocketformer.schedules.cpu.attention_rows import RowWriter
from pocketformer.schedules.cpu.attention_scores import Place
from pocketformer.schedules.cpu.attention_space import (
    WAYS,
    Tiling,
    rows_together,
    tasks,
    tilings,
    widths,
)
from pocketformer.schedules.cpu.attention_tile import TileWriter
from pocketformer.schedules.cpu.dot_gemm import SHORT
from pocketformer.schedules.cpu.dot_table import dot_named
from pocketformer.schedules.cpu.intrinsics import isa_named, isa_of
from pocketformer.schedules.cpu.kernel import (
    Kernel,
    ceil_div,
    imported,
    loop,
    parallel_loop,
    prim_func,
    when,
)
from pocketformer.schedules.cpu.packing import told
from pocketformer.schedules.cpu.spaces import one_at_a_time
from pocketformer.schedules.workloads import Attention

if TYPE_CHECKING:
    from pocketformer.targets import Target

WORTH_SHARING = 1 << 16      # multiply-adds
SCORES = 1 << 12             # of a tile and a block of keys: half of a first cache of 32 KiB
FEW = 8                      # from this many queries on, filling a tile with them pays


@dataclass(frozen=True)
class FusedAttention:
    """`keys` x `queries` scores, later `value_rows` x `columns` of the result, are held in
    registers; softmax runs over `block` keys at a time, `ways` vectors of exponentials under way.
    There are at least `tasks` tasks: as many as phones have cores. `dot` is the instruction that
    multiplies numbers of `dtype`, or empty for float32, as are few queries whatever the dtype; of
    their rows that read the same keys, `together` are weighed at once.
    """

    isa: str
    keys: int
    queries: int
    value_rows: int
    columns: int
    block: int
    dtype: str = "float32"
    dot: str = ""
    ways: int = 4
    tasks: int = 8
    together: int = 4

    @property
    def name(self) -> str:
        scores, result = f"{self.keys}x{self.queries}", f"{self.value_rows}x{self.columns}"
        short = SHORT[self.dtype] if self.dot else "f32"
        name = f"{short}_attention_{scores}v{result}b{self.block}_{self.dot or self.isa}"
        usual = FusedAttention
        return name + told(w=(self.ways, usual.ways), t=(self.tasks, usual.tasks),
                           r=(self.together, usual.together))

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.keys, self.queries, self.value_rows, self.columns, self.block)

    @property
    def products(self) -> Products:
        """What the kernel multiplies with."""
        if self.dot:
            return products_of(dot_named(self.dot, self.dtype))
        return in_float32(isa_named(self.isa))

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Attention)

    @classmethod
    def space(cls, target: Target, workload: Attention) -> Iterator[FusedAttention]:
        """The default first, then every tile and block, and other shares of each."""
        default = cls.default(target, workload)
        yield from dict.fromkeys((default, *default._others(target, workload)))

    def _others(self, target: Target, workload: Attention) -> Iterator[FusedAttention]:
        """What may be done otherwise where this is the default point."""
        few, many = self._taken(workload)
        choices: dict[str, Sequence[int]] = {}
        if few:
            choices["together"] = rows_together(workload, self.together)
        if not many:
            for columns in (self.columns, *widths(self.products, workload)):
                yield from one_at_a_time(replace(self, columns=columns), choices)
            return
        for tiling in tilings(self.tiling, self.products, isa_named(self.isa), target, workload):
            vectors = tiling.queries // self.products.lanes
            choices["ways"] = [ways for ways in WAYS if ways >= vectors]
            choices["tasks"] = tasks(target, workload, tiling.queries, self.tasks)
            yield from one_at_a_time(replace(self, **asdict(tiling)), choices)

    def _taken(self, workload: Attention) -> tuple[bool, bool]:
        """Whether there may be few queries or keys, and whether there may be many of both."""
        q_len, kv_len = workload.q_len, workload.kv_len
        few = q_len is None or kv_len is None or q_len < FEW or kv_len < self.keys
        many = (q_len is None or q_len >= FEW) and (kv_len is None or kv_len >= self.keys)
        return few, many

    @classmethod
    def default(cls, target: Target, workload: Attention) -> FusedAttention:
        isa, dot = isa_of(target), instruction_of(target, workload.dtype)
        keys, queries = tile_of(isa, dot)
        block = SCORES // queries // keys * keys
        point = cls(isa.name, keys, queries, *isa.value_tile, block)
        return replace(point, dtype=dot.dtype, dot=dot.name) if dot else point

    def kernel(self, workload: Attention, target: Target) -> Kernel:
        return Kernel(self.name, self.build(workload, target))

    def build(self, workload: Attention, target: Target) -> tirx.PrimFunc:
        """q, k, v (or qkv), mask?, scales?, out_factor?, out_zero? -> out."""
        with prim_func(self.name) as function:
            neon = isa_named(self.isa).arch == "aarch64" and bool(self.dot)
            inputs = Inputs(function, workload, neon)
            few: Any = inputs.q_len < FEW
            if not isinstance(few, bool) or not isinstance(inputs.kv_len, int):
                few = tirx.any(few, inputs.kv_len < self.keys)
            else:
                few = few or inputs.kv_len < self.keys
            with imported(self.products.llvm):
                if few is True:
                    self._rows(inputs)
                elif few is False:
                    self._tiles(inputs)
                else:
                    with T.If(few):
                        with T.Then():
                            self._rows(inputs)
                        with T.Else():
                            self._tiles(inputs)
        return function.func

    def _worthwhile(self, inputs: Inputs) -> bool:
        work = inputs.workload
        sizes = (inputs.batch, inputs.q_len, inputs.kv_len)
        if not all(isinstance(size, int) for size in sizes):
            return True
        batch, q_len, kv_len = sizes
        return bool(batch * q_len * kv_len * work.heads * work.head_size >= WORTH_SHARING)

    def _rows(self, inputs: Inputs) -> None:
        kv_heads = inputs.workload.kv_heads
        known = inputs.q_len if isinstance(inputs.q_len, int) else 1
        writer = RowWriter(
            isa_named(self.isa), inputs, min(self.together, known * inputs.group), self.columns)
        parts = ceil_div(inputs.q_len * inputs.group, writer.rows)
        with parallel_loop(inputs.batch * kv_heads * parts, self._worthwhile(inputs)) as task:
            pair, part = task // parts, task % parts
            writer.write(pair // kv_heads, pair % kv_heads, part * writer.rows)

    def _tiles(self, inputs: Inputs) -> None:
        """A task is some of the tiles that read a key head, which is laid out for them first."""
        work, dot = inputs.workload, self.products
        mask = Mask(inputs, self.keys, self.queries, dot.lanes)
        mask.prepare()
        if finds_ranges(inputs, dot):
            mask.prepare_ranges()
        tiles = ceil_div(inputs.q_len, self.queries)
        total, pairs = tiles * inputs.group, inputs.batch * work.kv_heads
        parts = ceil_div(self.tasks, pairs if isinstance(pairs, int) else work.kv_heads)
        each = ceil_div(total, parts)
        with parallel_loop(pairs * parts, self._worthwhile(inputs)) as task:
            pair, part = task // parts, task % parts
            batch, kv_head = pair // work.kv_heads, pair % work.kv_heads
            keys = Keys(inputs, dot, self.keys, mask)
            values = Values(inputs, dot, self.columns, mask)
            with when(parts == 1 or part * each < total):
                keys.fill(batch, kv_head)
                values.fill(batch, kv_head)
            writer = TileWriter(self, inputs, keys, values, mask)
            with loop(tirx.min(each, total - part * each) if parts > 1 else total) as i:
                number = part * each + i
                head = kv_head * inputs.group + number // tiles
                writer.write(Place(batch, head, number % tiles * self.queries))
