"""How the weights of a linear layer lie: [panel, k, column of the panel], the last panel padded.

The layout depends on k, n and a panel's width alone, so kernels for any number of rows share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tvm import relax

from pocketformer.schedules.cpu.kernel import Expr, ceil_div
from pocketformer.schedules.cpu.tiles import hidden


class HasTiles(Protocol):
    """What has register tiles (rows, columns) and widths of panels, the best of both first: an
    instruction set, or a product."""

    @property
    def tiles(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def panels(self) -> tuple[int, ...]: ...


def default_tile(isa: HasTiles, n: int) -> tuple[int, int]:
    """(rows, columns) of the best register tile whose panels waste little of `n` columns."""
    width = _least_waste(n, [columns for _, columns in isa.tiles])
    return next(tile for tile in isa.tiles if tile[1] == width)


def default_panel(isa: HasTiles, n: int) -> int:
    """The columns of the panels in which the weights of `n` columns lie."""
    return _least_waste(n, isa.panels)


def _least_waste(n: int, widths: Sequence[int]) -> int:
    def cost(place: int) -> float:
        # Every place down the table costs some 2 % of speed.
        return float(ceil_div(n, widths[place]) * widths[place] * (1.0 + 0.02 * place))

    return widths[min(range(len(widths)), key=cost)]


def part_of_panel(strip: Expr, columns: int, panel: int) -> tuple[Expr, Expr]:
    """The panel of a strip of `columns` columns, and the column where it begins in that."""
    parts = panel // columns
    if parts == 1:
        return strip, 0
    # In 64 bits: TVM's 32 would be widened for every address.
    return hidden(strip // parts), hidden(strip % parts * columns)


def told(**fields: tuple[int, int]) -> str:
    """What a kernel's name says of `fields`, (value, usual value) by letter: the unusual ones."""
    return "".join(f"_{letter}{value}" for letter, (value, usual) in fields.items()
                   if value != usual)


def packed_shape(n: int, k: int, columns: int) -> tuple[int, int, int]:
    """[panel, k, column]."""
    return (ceil_div(n, columns), k, columns)


def pack(weight: relax.Expr, n: int, k: int, columns: int) -> relax.Expr:
    """Relax operations that put `weight` [k, n] into `packed_shape`."""
    panels = ceil_div(n, columns)
    if panels * columns != n:
        weight = relax.op.nn.pad(weight, [0, 0, 0, panels * columns - n])
    return relax.op.permute_dims(relax.op.reshape(weight, (k, panels, columns)), [1, 0, 2])
