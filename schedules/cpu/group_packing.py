"""How weights of short numbers lie: [panel, k / group, column of the panel, k of the group].

A group of neighbours in k is what an instruction multiplies at once. The last panel and the last
group are padded with zeros. Like that of float32, the layout does not depend on the rows of x.
"""

from __future__ import annotations

from tvm import relax

from pocketformer.schedules.cpu.kernel import ceil_div


def grouped_shape(n: int, k: int, columns: int, group: int) -> tuple[int, int, int, int]:
    """[panel, k / group, column, k of the group]."""
    return (ceil_div(n, columns), ceil_div(k, group), columns, group)


def pack_groups(weight: relax.Expr, n: int, k: int, columns: int, group: int) -> relax.Expr:
    """Relax operations that put `weight` [k, n] into `grouped_shape`."""
    panels, groups, _, _ = grouped_shape(n, k, columns, group)
    if (groups * group, panels * columns) != (k, n):
        weight = relax.op.nn.pad(weight, [0, groups * group - k, 0, panels * columns - n])
    split = relax.op.reshape(weight, (groups, group, panels, columns))
    return relax.op.permute_dims(split, [2, 0, 3, 1])
