"""What a kernel is asked for: a workload, and arguments in the shapes that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm import relax

from pocketformer.passes.graph import Size, emit, is_one, same_sizes, shape
from pocketformer.schedules.workloads import Workload


@dataclass(frozen=True)
class Plan:
    """A workload, its kernel's arguments (the one to pack stands at `packed`) and result shape.

    `axes` are the sizes of the workload that may be symbolic, by their names in the kernel.

    The result may take over the memory of the argument at `in_place`: each of its elements is
    written after the same element of that argument was read for the last time.

    Some kernels have `more` results than the first.
    """

    workload: Workload
    args: list[relax.Expr]
    out: list[Size]
    axes: Mapping[str, Size] = field(default_factory=dict)
    packed: int | None = None
    in_place: int | None = None
    more: list[list[Size]] = field(default_factory=list)


def rows_of(
    before: list[relax.VarBinding], x: relax.Expr, name: str
) -> tuple[Size, relax.Expr]:
    """The number of rows of `x`, all axes but the last taken together, and `x` as [rows, size]."""
    sizes = shape(x)
    rows = product(sizes[:-1])
    return rows, flat(before, x, [rows, sizes[-1]], name)


def flat(
    before: list[relax.VarBinding], x: relax.Expr, sizes: list[Size], name: str
) -> relax.Expr:
    """`x` in the shape `sizes`."""
    return x if same_sizes(shape(x), sizes) else emit(before, relax.op.reshape(x, sizes), name)


def product(sizes: list[Size]) -> Size:
    """How many elements there are in all."""
    total: Size = 1
    for size in sizes:
        total = size if is_one(total) else total * size
    return total


def known(size: Size) -> int | None:
    """The size where it is a number."""
    return size if isinstance(size, int) else None
