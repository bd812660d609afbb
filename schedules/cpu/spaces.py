"""What the spaces of the templates are made of: panels, register tiles, one other choice at a time.

A space is every primary point (panel and tile) with the other choices as they are by default, and
beside each of these the points in which one of them is changed: hundreds, where all combinations
would be tens of thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from pocketformer.schedules.cpu.kernel import ceil_div
from pocketformer.schedules.cpu.packing import HasTiles, default_panel
from pocketformer.schedules.cpu.tiles import Tiles

MOST_ROWS, MOST_VECTORS = 16, 6    # of a tile: beyond, there is nothing left to keep in registers
MORE_WASTE = 1.07                  # of padding: more than tiles differ by
TASKS = (1, 16, 64)                # no more than strips, enough for uneven cores, for many

Point = TypeVar("Point")


class Multiplies(HasTiles, Protocol):
    """An instruction set, or a product."""

    @property
    def lanes(self) -> int: ...

    @property
    def by_lane(self) -> bool: ...


def panels_of(isa: HasTiles, n: int) -> list[int]:
    """Widths in which the weights of `n` columns may lie, the default first.

    They depend on what all instruction sets of a processor family share, so that a library for
    several of them can have its weights once.
    """
    step = min(isa.panels)      # the longest vector of the family
    return list(dict.fromkeys([default_panel(isa, n), *widths_of(step, n)]))


def widths_of(lanes: int, n: int | None) -> list[int]:
    """The vectors, in columns, that pad `n` columns little; all where it is not known."""
    widths = range(lanes, MOST_VECTORS * lanes + 1, lanes)
    if n is None:
        return list(widths)
    padded = [ceil_div(n, width) * width for width in widths]
    return [width for width, size in zip(widths, padded, strict=True)
            if size <= MORE_WASTE * min(padded)]


def parts_of(panel: int, lanes: int) -> list[int]:
    """The whole vectors, in columns, that divide a panel, the widest first."""
    return [columns for columns in range(panel, 0, -lanes) if panel % columns == 0]


def tiles_of(
    isa: Multiplies, registers: int, widths: Iterable[int], m: int | None, matrix: bool = False
) -> Iterator[tuple[int, int]]:
    """(rows, columns) of the tiles of such widths whose sums and factors fit `registers`.

    No two cover `m` rows with the same tiles. Where m is not known, heights are even, as each up
    to the highest has code of its own.
    """
    heights = [rows for rows in range(1, MOST_ROWS + 1)
               if (rows % 2 == 0 if m is None else rows == height(m, rows))]
    for columns in widths:
        vectors = columns // isa.lanes
        for rows in heights:
            left = ceil_div(rows, 2 if matrix else isa.lanes)
            factors = 1 + (left if matrix or isa.by_lane else vectors)
            busy = rows * vectors >= registers // 4 or rows == m
            if busy and rows * vectors + factors <= registers:
                yield rows, columns


def height(m: int | None, rows: int) -> int:
    """The rows of the highest tile where `m` rows are covered by tiles of at most `rows`."""
    if m is None:
        return rows
    return int(ceil_div(m, ceil_div(m, rows)))


def sharing_of(tiles: Tiles, m: int | None, threads: int) -> dict[str, list[Any]]:
    """The values of `tasks` and `by_rows` that make a difference to `m` rows."""
    if not tiles.shared or threads == 1:
        return {}

    def groups(tasks: int) -> int:
        # Where m is not known, there are tiles enough for all groups.
        return replace(tiles, tasks=tasks).groups(m or tasks * tiles.rows)

    tasks = {groups(each): each for each in (*TASKS, tiles.tasks)}     # the last one of equals
    return {"tasks": list(tasks.values()), "by_rows": [False, groups(tiles.tasks) > 1]}


def one_at_a_time(point: Any, choices: dict[str, Sequence[Any]]) -> Iterator[Any]:
    """`point`, then for each field the points with another of its `choices`."""
    yield point
    for name, values in choices.items():
        for value in dict.fromkeys(values):
            if value != getattr(point, name):
                yield replace(point, **{name: value})


def distinct(points: Iterable[Point], key: Callable[[Point], Hashable]) -> list[Point]:
    """The first of all points with the same `key`, in order."""
    found: dict[Hashable, Point] = {}
    for point in points:
        found.setdefault(key(point), point)
    return list(found.values())
