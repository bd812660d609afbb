"""Which tiles a product of many rows is made of, and which task computes them.

A tile is `rows` rows of one panel of weights. What a tile computes is the business of its kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.kernel import Expr, ceil_div, loop, parallel_loop
from pocketformer.schedules.workloads import Linear

WORTH_SHARING = 1 << 17    # multiply-adds: some 2 us of one core, twice what a launch costs
UNKNOWN_ROWS = 64          # what a number of rows known only at run time is taken for
TASKS = 16                 # enough for eight uneven cores
BLOCK_ROWS = 128           # rows packed at a time: with k = 768, 384 KiB of float32

Begin = Callable[[Expr], None]                                # panel
Compute = Callable[[Expr, Expr, int, "Expr | None"], None]    # panel, row, rows, limit


def worth_sharing(workload: Linear) -> bool:
    """Whether threads pay for this layer."""
    return (workload.m or UNKNOWN_ROWS) * workload.n * workload.k >= WORTH_SHARING


@dataclass(frozen=True)
class Tiles:
    """`panels` panels by tiles of at most `rows` rows; by several threads where `shared`."""

    panels: int
    rows: int
    shared: bool

    def walk(self, count: Expr, begin: Begin, compute: Compute) -> None:
        """Cover `count` rows; a task is a panel and a group of row tiles.

        A task calls `begin(panel)`, then for each of its tiles `compute(panel, row, rows, limit)`:
        the rows from `row` on, `rows` of them, of which those from `limit` on do not exist (None:
        all exist). `count` is a number or an expression, of at least 1.
        """
        rows = self.rows
        groups = ceil_div(TASKS, self.panels)
        if isinstance(count, int):
            groups = min(groups, max(1, count // rows))
        tiles = count // rows
        per_group = ceil_div(tiles, groups)
        with parallel_loop(self.panels * groups, self.shared) as task:
            panel, group = task // groups, task % groups
            begin(panel)
            start = group * per_group
            with loop(tirx.min(per_group, tiles - start) if groups > 1 else tiles) as i:
                compute(panel, (start + i) * rows, rows, None)
            if isinstance(count, int):
                if count % rows:
                    with T.If(group == groups - 1), T.Then():
                        compute(panel, tiles * rows, count % rows, None)
            else:
                with T.If(tirx.all(group == groups - 1, count % rows > 0)), T.Then():
                    _tail(panel, tiles * rows, count, rows, compute)


def _tail(panel: Expr, row: Expr, count: Expr, rows: int, compute: Compute) -> None:
    """The least of rows, rows / 2, ... 1 that holds the rows left over."""
    smaller = rows // 2
    if smaller == 0:
        compute(panel, row, rows, None)
        return
    with T.If(count - row > smaller):
        with T.Then():
            compute(panel, row, rows, count)
        with T.Else():
            _tail(panel, row, count, smaller, compute)


def block_rows(m: Expr, rows: int) -> int:
    """How many rows are packed at a time: whole tiles of `rows`, no more than `m` rows need."""
    block = BLOCK_ROWS // rows * rows
    if isinstance(m, int) and m <= block:
        return int(ceil_div(m, rows)) * rows
    return block


def each_block(m: Expr, rows: int, body: Callable[[Expr, Expr], None]) -> None:
    """`body(first, count)` for every block of at most `block_rows` rows, one after the other."""
    block = block_rows(m, rows)
    if isinstance(m, int) and m <= block:
        body(0, m)
        return
    with loop(ceil_div(m, block)) as number:
        first = number * block
        body(first, tirx.min(m - first, block))
