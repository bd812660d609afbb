"""gather_nd(x, [[0, 0], [0, 1], ...])  ->  reshape(x): every place looks up its own element.

Exporters write masks so: one entry for each batch and key, by tables of their own numbers.
"""

from __future__ import annotations

from tvm import relax, tirx

from pocketformer.passes.graph import Graph, Size, is_one, op_name, same_sizes, shape


def own_places(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    """What a gather_nd gives whose indices are the places of its result; None for any other."""
    data, indices = call.args
    table = graph.value(indices)
    if int(call.attrs.batch_dims) != 0 or op_name(table) != "relax.concat":
        return None
    sizes, target = shape(data), shape(call)
    columns = graph.value(table.args[0])
    whole = isinstance(columns, relax.Tuple) and len(columns.fields) == len(sizes)
    if not whole or int(table.attrs.axis) % len(shape(table)) != len(target):
        return None
    axes = []
    for column, size in zip(columns.fields, sizes, strict=True):
        if is_one(size):
            continue    # there is only one index
        if (axis := _counted(graph, column, size)) is None:
            return None
        axes.append(axis)
    if axes != sorted(set(axes)):
        return None
    kept = [target[axis] if axis in axes else 1 for axis in range(len(target))]
    new = relax.op.reshape(data, kept)
    return new if same_sizes(kept, target) else relax.op.broadcast_to(new, target)


def turned_rows(graph: Graph, call: relax.Call) -> relax.Expr | None:
    """What a transpose gives that puts the rows looked up in a weight first, by a turned weight.

    permute_dims(take(table, places), [2, 0, 1]) is take(table.T, places, axis=1).
    """
    found = graph.value(call.args[0])
    if op_name(found) != "relax.take" or not graph.is_weight(found.args[0]):
        return None
    table, places = found.args
    rank = len(shape(places))
    axes = [int(axis) % (rank + 1) for axis in call.attrs.axes or range(rank, -1, -1)]
    by_row = found.attrs.axis is not None and int(found.attrs.axis) == 0
    if not by_row or len(shape(table)) != 2 or axes != [rank, *range(rank)]:
        return None
    table = relax.op.permute_dims(table, [1, 0])
    return relax.op.take(table, places, axis=1, mode=str(found.attrs.mode))


def _counted(graph: Graph, column: relax.Expr, size: Size) -> int | None:
    """The axis along which `column`, which has one more axis, counts from 0 up to `size`."""
    expr = graph.value(column)
    if op_name(expr) == "relax.reshape" and is_one(shape(expr)[-1]):
        whole = shape(expr)[:-1]
        if same_sizes(shape(expr.args[0]), whole):
            expr = graph.value(expr.args[0])
    if op_name(expr) == "relax.broadcast_to":
        expr = graph.value(expr.args[0])
    rank = len(shape(column)) - 1
    given = shape(expr)[:rank]
    axes = [axis for axis, each in enumerate(given) if not is_one(each)]
    while op_name(expr) == "relax.reshape":
        expr = graph.value(expr.args[0])
    if op_name(expr) != "relax.arange" or len(axes) != 1:
        return None
    start, end, step = expr.args
    counts = _is(start, 0) and _is(step, 1) and same_sizes([_plain(end)], [size])
    return axes[0] + rank - len(given) if counts else None


def _is(number: relax.Expr, value: int) -> bool:
    return isinstance(number, tirx.IntImm) and int(number) == value


def _plain(size: relax.Expr) -> Size:
    return int(size) if isinstance(size, tirx.IntImm) else size
