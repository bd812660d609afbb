"""What an attention kernel may do otherwise: the tiles, blocks and shares that are worth a try.

All are legal for every workload: they only cut the same sums into other pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketformer.schedules.cpu.attention_products import Products, padded_columns
from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import ceil_div
from pocketformer.schedules.workloads import MOST_PRODUCTS, Attention

if TYPE_CHECKING:
    from pocketformer.targets import Target

MOST_KEYS = 24          # of a tile; a buffer of eight steps of them stays on the stack
MOST_VECTORS = 4        # of queries
WASTE = 1.1             # a tile may make so much more of a length that is known
NUMBER = 4              # bytes of a score
TASKS = (1, 8, 24)      # at least; one a key head lays nothing out twice
TOGETHER = (1, 2, 4, 8)
WAYS = (2, 4, 8)


@dataclass(frozen=True)
class Tiling:
    """The fields of a point of these names."""

    keys: int
    queries: int
    value_rows: int
    columns: int
    block: int


def tilings(
    default: Tiling, dot: Products, isa: Isa, target: Target, workload: Attention
) -> Iterator[Tiling]:
    """Every tile of scores with every block of keys and every tile of the result."""
    own = default.keys, default.queries
    for keys, queries in dict.fromkeys((own, *score_tiles(isa, dot, workload))):
        values = list(value_tiles(isa, dot, workload, queries))
        sizes = list(blocks(target, workload, keys, queries))
        if (keys, queries) == own:
            values.append((default.value_rows, default.columns))
            sizes = [default.block, *(size for size in sizes if not _alike(
                size, default.block, workload.kv_len))]
        for block in sizes:
            for rows, columns in values:
                yield Tiling(keys, queries, rows, columns, block)


def score_tiles(isa: Isa, dot: Products, workload: Attention) -> Iterator[tuple[int, int]]:
    """(keys, queries) that fill at least half of the registers, beside the factors of a step.

    Keys are even or whole words, as so many are multiplied at once, and whole vectors where such
    are loaded.
    """
    for vectors in range(1, MOST_VECTORS + 1):
        queries = vectors * isa.lanes
        step = isa.lanes if dot.by_lane else max(dot.group, 4 if vectors == 1 else 2)
        for keys in range(4, MOST_KEYS + 1, step):
            factors = vectors + (keys // isa.lanes if dot.by_lane else 1)
            fits = isa.registers // 2 <= keys * vectors <= isa.registers - factors
            if (workload.kv_len or keys) < keys or not _even(workload.kv_len, keys):
                continue
            if fits and _even(workload.q_len, queries):
                yield keys, queries


def value_tiles(
    isa: Isa, dot: Products, workload: Attention, queries: int
) -> Iterator[tuple[int, int]]:
    """(rows, columns) of the result that fill the registers likewise.

    `queries` are whole rows of tiles: what is read beside them is the next key's.
    """
    for columns in widths(dot, workload):
        vectors = columns // dot.lanes
        for rows in range(1, min(queries, isa.registers) + 1):
            factors = vectors + (rows // dot.lanes if dot.by_lane else 1)
            fits = isa.registers // 2 <= rows * vectors <= isa.registers - factors
            if fits and queries % rows == 0 and (not dot.by_lane or rows % dot.lanes == 0):
                yield rows, columns


def widths(dot: Products, workload: Attention) -> list[int]:
    """Columns of a value's groups: those that leave no narrower group."""
    vectors = ceil_div(padded_columns(dot, workload.value_size), dot.lanes)
    return [v * dot.lanes for v in range(1, 9) if vectors % v == 0]


def blocks(target: Target, workload: Attention, keys: int, queries: int) -> Iterator[int]:
    """Keys whose scores take a part of a cache; all of them where they are few enough.

    Those of integers are no more than int32 holds the products with values of.
    """
    most = MOST_PRODUCTS // keys if workload.dtype == "int8" else target.l2
    whole = workload.kv_len and ceil_div(workload.kv_len, keys) * keys
    row = NUMBER * queries
    for size in (target.l1d // 8, target.l1d // 4, target.l1d // 2, target.l1d, target.l2 // 4):
        block = max(1, min(size // row // keys, most)) * keys
        if not whole or block < whole:
            yield block
    if whole and whole * row <= target.l2 // 2 and whole <= most * keys:
        yield whole


def tasks(target: Target, workload: Attention, queries: int, default: int) -> list[int]:
    """Numbers of tasks that cut the tiles of a key head into different parts."""
    pairs = (workload.batch or 1) * workload.kv_heads
    tiles = workload.q_len and ceil_div(workload.q_len, queries)
    most = tiles and tiles * workload.heads // workload.kv_heads
    found = {ceil_div(default, pairs): default}
    for count in TASKS if target.threads > 1 else TASKS[:1]:
        if not most or ceil_div(count, pairs) <= most:
            found.setdefault(ceil_div(count, pairs), count)
    return list(found.values())


def rows_together(workload: Attention, default: int) -> list[int]:
    """Numbers of rows that few queries can take at once."""
    most = (workload.q_len or 1) * (workload.heads // workload.kv_heads)
    found = {min(default, most): default}
    for count in TOGETHER:
        found.setdefault(min(count, most), count)
    return list(found.values())


def _alike(block: int, other: int, kv_len: int | None) -> bool:
    """Whether both are one block of all keys."""
    return kv_len is not None and min(block, other) >= kv_len


def _even(size: int | None, step: int) -> bool:
    """Whether pieces of `step` cover `size` with little left over."""
    return size is None or ceil_div(size, step) * step <= WASTE * size
