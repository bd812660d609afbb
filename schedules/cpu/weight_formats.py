"""How small weights lie in memory: whole numbers of 8 or 4 bits, and their scales.

    8 bits    int8 [panel, k / 4, column, 4], two's complement
    4 bits    int32 [panel, k / 8, column], each number stored greater by 8 (offset binary):
              rows 0..3 of the 8 in the low halves of the word's bytes, rows 4..7 in the high ones
    scales    float32 [panel, group, column]

Rows after the last are of zeros, columns too. So laid out, four rows of a column are one word for
an instruction that sums four products, once the halves of the bytes are told apart.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from pocketformer.schedules.cpu.kernel import ceil_div
from pocketformer.schedules.workloads import WeightOnlyLinear

OFFSET = 8               # what is added to a number of 4 bits
DTYPE = {8: "int8", 4: "int32"}
SHIFTS = (0, 8, 16, 24, 4, 12, 20, 28)     # of the 8 rows that share a word


def weight_shape(work: WeightOnlyLinear, columns: int) -> tuple[int, ...]:
    """Of the packed weight."""
    panels = ceil_div(work.n, columns)
    if work.bits == 8:
        return (panels, ceil_div(work.k, 4), columns, 4)
    return (panels, work.k // 8, columns)


def scale_shape(work: WeightOnlyLinear, columns: int) -> tuple[int, ...]:
    """Of the packed scales."""
    return (ceil_div(work.n, columns), work.groups, columns)


def pack_weight(weight: relax.Expr, work: WeightOnlyLinear, columns: int) -> relax.Expr:
    """Relax operations that put int8 `weight` [k, n] into `weight_shape`."""
    panels, rows, *_ = weight_shape(work, columns)
    deep = 32 // work.bits
    if work.bits == 4:
        wide = relax.op.add(relax.op.astype(weight, "int32"), relax.const(OFFSET, "int32"))
    else:
        wide = weight
    wide = _padded(wide, deep * rows - work.k, panels * columns - work.n)
    parts = relax.op.reshape(wide, (rows, deep, panels, columns))
    if work.bits == 8:
        return relax.op.permute_dims(parts, [2, 0, 3, 1])
    shifts = relax.op.reshape(relax.const(np.array(SHIFTS, "int32")), (1, deep, 1, 1))
    words = relax.op.sum(relax.op.left_shift(parts, shifts), axis=[1])
    return relax.op.permute_dims(words, [1, 0, 2])


def pack_scale(scale: relax.Expr, work: WeightOnlyLinear, columns: int) -> relax.Expr:
    """Relax operations that put `scale` [groups, n] into `scale_shape`."""
    panels, groups, _ = scale_shape(work, columns)
    wide = _padded(scale, 0, panels * columns - work.n)
    return relax.op.permute_dims(relax.op.reshape(wide, (groups, panels, columns)), [1, 0, 2])


def _padded(matrix: relax.Expr, rows: int, columns: int) -> relax.Expr:
    return relax.op.nn.pad(matrix, [0, rows, 0, columns]) if rows or columns else matrix
