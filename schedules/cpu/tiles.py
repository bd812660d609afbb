"""Which tiles a product of many rows is made of, and which task computes them.

A strip is as many neighbouring columns as a kernel computes at a time, a panel of weights or part
of one; a tile is some rows of a strip. What a tile computes is the business of its kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.kernel import Expr, ceil_div, loop, parallel_loop, registers, store
from pocketformer.schedules.workloads import Linear

WORTH_SHARING = 1 << 17    # multiply-adds: some 2 us of one core, twice what a launch costs
UNKNOWN_ROWS = 64          # what a number of rows known only at run time is taken for
TASKS = 16                 # enough for eight uneven cores
BLOCK_ROWS = 128           # rows packed at a time: with k = 768, 384 KiB of float32

Begin = Callable[[Expr], None]                # strip
Visit = Callable[[Expr, Expr, int], None]     # tile, row, rows
Compute = Callable[[Expr, Expr, Expr, int], None]               # strip, tile, row, rows
ComputeRound = Callable[[Expr, Expr, Expr, int, Expr], None]    # and which round


def worth_sharing(workload: Linear) -> bool:
    """Whether threads pay for this layer."""
    return (workload.m or UNKNOWN_ROWS) * workload.n * workload.k >= WORTH_SHARING


@dataclass(frozen=True)
class Tiles:
    """`strips` strips by tiles of at most `rows` rows; by several threads where `shared`.

    The tiles of a strip are as even as can be: nine rows are five and four, not eight and one. Each
    height that can occur gets code of its own. Strips are cut into groups of tiles until there are
    `tasks`, of which each thread takes neighbours: those of a strip, or `by_rows` the same rows of
    many strips.
    """

    strips: int
    rows: int
    shared: bool
    tasks: int = TASKS
    by_rows: bool = False

    def groups(self, count: Expr) -> int:
        """How many groups of tiles a strip of `count` rows is cut into."""
        groups = int(ceil_div(self.tasks, self.strips))
        tiles = ceil_div(count, self.rows)
        return min(groups, tiles) if isinstance(tiles, int) else groups

    def per_group(self, count: Expr) -> Expr:
        """How many tiles a group has; the last ones may have fewer."""
        return ceil_div(ceil_div(count, self.rows), self.groups(count))

    def walk(self, count: Expr, begin: Begin, compute: Compute) -> None:
        """Cover `count` rows, a number or an expression, of at least 1.

        A task is a strip and a group of tiles. It calls `begin(strip)`, then for each of its tiles
        `compute(strip, tile, row, rows)`: the `rows` rows from `row` on.
        """
        with self._task(count, begin) as (strip, start, several), loop(several) as i:
            self._visit(count, start + i, lambda *tile: compute(strip, *tile))

    def walk_in_rounds(
        self, count: Expr, begin: Begin, compute: ComputeRound, rounds: int
    ) -> None:
        """As `walk`, but a task goes over its tiles so often; `compute` gets the round as well."""
        with (
            self._task(count, begin) as (strip, start, several),
            loop(rounds) as number,
            loop(several) as i,
        ):
            self._visit(
                count, start + i,
                lambda tile, row, rows: compute(strip, tile, row, rows, number))

    @contextmanager
    def _task(self, count: Expr, begin: Begin) -> Iterator[tuple[Expr, Expr, Expr]]:
        """The strip of a task that has begun, its first tile, and how many it has."""
        tiles = ceil_div(count, self.rows)
        groups, per_group = self.groups(count), self.per_group(count)
        with parallel_loop(self.strips * groups, self.shared) as task:
            if self.by_rows:
                strip, group = task % self.strips, task // self.strips
            else:
                strip, group = task // groups, task % groups
            begin(strip)
            start = group * per_group
            several = tirx.min(per_group, tiles - start) if groups > 1 else tiles
            yield strip, start, several

    def each(self, count: Expr, visit: Visit) -> None:
        """`visit(tile, row, rows)` for the same tiles, whatever the strip; each is a task."""
        with parallel_loop(ceil_div(count, self.rows), self.shared) as tile:
            self._visit(count, tile, visit)

    def place(self, count: Expr, tile: Expr) -> tuple[Expr, Expr]:
        """The row where a tile begins, and how many it has, as expressions."""
        tiles = ceil_div(count, self.rows)
        low, higher = count // tiles, count % tiles
        row = hidden(tile * low + tirx.min(tile, higher))
        return row, hidden(low + tirx.Select(tile < higher, 1, 0))

    def _visit(self, count: Expr, tile: Expr, visit: Visit) -> None:
        """The first tiles have a row more where the rows cannot be shared out evenly."""
        tiles = ceil_div(count, self.rows)
        low, higher = count // tiles, count % tiles
        if self.rows == 1:
            visit(tile, tile, 1)
        elif not isinstance(count, int):
            row, height = self.place(count, tile)
            with T.If(height == self.rows):
                with T.Then():
                    visit(tile, row, self.rows)
                with T.Else():
                    _by_height(height, 1, self.rows - 1, lambda rows: visit(tile, row, rows))
        elif higher == 0:
            visit(tile, tile * low, low)
        else:
            with T.If(tile < higher):
                with T.Then():
                    visit(tile, tile * (low + 1), low + 1)
                with T.Else():
                    visit(tile, tile * low + higher, low)


def _by_height(height: Expr, low: int, high: int, visit: Callable[[int], None]) -> None:
    """`visit(height)` for what the expression `height`, in low..high, is."""
    if low == high:
        visit(low)
        return
    middle = (low + high) // 2
    with T.If(height <= middle):
        with T.Then():
            _by_height(height, low, middle, visit)
        with T.Else():
            _by_height(height, middle + 1, high, visit)


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
        first = hidden(number * block)
        body(first, hidden(tirx.min(m - first, block)))


def hidden(value: Expr) -> Expr:
    """`value`, in a register through which TVM's passes do not see.

    They try to bound every index and to solve every condition, which takes them seconds a kernel.
    """
    held = registers(1, dtype="int64")
    store(held, value, 0)
    return T.bind(held[0])
