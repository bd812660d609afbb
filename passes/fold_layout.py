"""permute(reshape(permute(x)))  ->  reshape(permute(x)), or reshape(x) where it all cancels out."""

from __future__ import annotations

from tvm import relax

from pocketformer.passes.graph import Graph, Size, op_name, same_sizes, shape


def permuted_groups(graph: Graph, call: relax.Call, axes: list[int]) -> relax.Expr | None:
    """What a transpose by `axes` gives of axes that a reshape merged after another transpose.

    Whole groups of axes change places, so one transpose of the first tensor does for both.
    """
    merge = graph.value(call.args[0])
    if op_name(merge) != "relax.reshape":
        return None
    inner = graph.value(merge.args[0])
    if op_name(inner) != "relax.permute_dims":
        return None
    groups = _groups(shape(inner), shape(merge))
    if groups is None:
        return None
    rank = len(shape(inner))
    first = [int(axis) % rank for axis in inner.attrs.axes or range(rank - 1, -1, -1)]
    order = [first[axis] for group in axes for axis in groups[group]]
    x = inner.args[0]
    if order != sorted(order):
        x = relax.op.permute_dims(x, order)
    return relax.op.reshape(x, shape(call))


def _groups(source: list[Size], target: list[Size]) -> list[list[int]] | None:
    """For every axis of `target` the neighbours in `source` that it was merged from."""
    groups: list[list[int]] = []
    at = 0
    for size in target:
        group = [at]
        whole = source[at] if at < len(source) else 1
        while not same_sizes([whole], [size]):
            if group[-1] + 1 >= len(source):
                return None
            group.append(group[-1] + 1)
            whole = whole * source[group[-1]]
        at = group[-1] + 1
        groups.append(group)
    return groups if at == len(source) else None
