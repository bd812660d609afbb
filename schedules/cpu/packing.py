"""How the weights of a linear layer lie: [panel, k, column of the panel], the last panel padded.

The layout depends on k, n and a panel's width alone, so kernels for any number of rows share it.
"""

from __future__ import annotations

from tvm import relax

from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import ceil_div


def default_tile(isa: Isa, n: int) -> tuple[int, int]:
    """(rows, columns) of the best register tile whose panels waste little of `n` columns."""
    def cost(tile: tuple[int, int]) -> float:
        # Every place down the table costs some 2 % of speed.
        return float(ceil_div(n, tile[1]) * tile[1] * (1.0 + 0.02 * isa.tiles.index(tile)))

    return min(isa.tiles, key=cost)


def packed_shape(n: int, k: int, columns: int) -> tuple[int, int, int]:
    """[panel, k, column]."""
    return (ceil_div(n, columns), k, columns)


def pack(weight: relax.Expr, n: int, k: int, columns: int) -> relax.Expr:
    """Relax operations that put `weight` [k, n] into `packed_shape`."""
    panels = ceil_div(n, columns)
    if panels * columns != n:
        weight = relax.op.nn.pad(weight, [0, 0, 0, panels * columns - n])
    return relax.op.permute_dims(relax.op.reshape(weight, (k, panels, columns)), [1, 0, 2])
