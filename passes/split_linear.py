"""split(x @ [wq, wk, wv] + b)  ->  x @ wq + bq, x @ wk + bk, x @ wv + bv, where that saves rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tvm import relax

from pocketformer.passes.graph import Graph, Replacement, emit, normalize, op_name, shape


@dataclass(frozen=True)
class SplitLinear:
    """A product with a weight that is then split along its columns.

    `steps` lead from the product to what is split: sums with a bias, and reshapes.
    """

    product: relax.Call
    steps: list[relax.Call]
    items: dict[relax.Var, int]      # by variable, which part it is


def split_linears(graph: Graph) -> dict[relax.Var, SplitLinear]:
    """By the tuple of its parts, every linear of `graph` that is split."""
    return {var: found for var, value in graph if (found := _split_linear(graph, var, value))}


def as_parts(
    graph: Graph, splits: dict[relax.Var, SplitLinear], chosen: Collection[relax.Var]
) -> relax.Function:
    """The function in which each part of the `chosen` splits has a linear of its own."""
    replacements = {}
    for whole in chosen:
        split = splits[whole]
        ends = [0]
        for field in whole.ty.fields:
            ends.append(ends[-1] + int(field.shape[-1]))
        for var, index in split.items.items():
            before: list[relax.VarBinding] = []
            value = _part(before, split, ends[index], ends[index + 1], var.name)
            replacements[var] = Replacement(value, before)
    return graph.replaced(replacements)


def _split_linear(graph: Graph, var: relax.Var, value: relax.Expr) -> SplitLinear | None:
    if op_name(value) != "relax.split":
        return None
    source = value.args[0]
    if int(value.attrs.axis) % len(shape(source)) != len(shape(source)) - 1:
        return None
    items = {user: graph.producer[user] for user in graph.users.get(var, [])}
    if not all(isinstance(item, relax.TupleGetItem) for item in items.values()):
        return None
    steps = list(_steps(graph, source))
    if not steps or op_name(steps[-1]) != "relax.matmul":
        return None
    places = {user: int(item.index) for user, item in items.items()}
    return SplitLinear(steps[-1], steps[-2::-1], places)


def _steps(graph: Graph, expr: relax.Expr) -> Iterator[relax.Call]:
    """From what is split up to the product that it comes from, as far as nothing else reads it."""
    while graph.only_user(expr) is not None:
        call = graph.value(expr)
        match op_name(call):
            case "relax.matmul" if graph.is_weight(call.args[1]) and len(shape(call.args[1])) == 2:
                yield call
                return
            case "relax.add" if graph.is_weight(call.args[1]) and len(shape(call.args[1])) == 1:
                yield call
            case "relax.reshape" if str(shape(call)[-1]) == str(shape(call.args[0])[-1]):
                yield call
            case _:
                return
        expr = call.args[0]


def _part(
    before: list[relax.VarBinding], split: SplitLinear, begin: int, end: int, name: str
) -> relax.Expr:
    x, weight = split.product.args
    columns = relax.op.strided_slice(weight, [1], [begin], [end], assume_inbound=True)
    value = relax.op.matmul(x, columns)
    span = split.product.span
    for step in split.steps:
        var = emit(before, value, name, span)
        span = step.span
        if op_name(step) == "relax.add":
            bias = relax.op.strided_slice(step.args[1], [0], [begin], [end], assume_inbound=True)
            value = relax.op.add(var, bias)
        else:
            value = relax.op.reshape(var, [*shape(step)[:-1], end - begin])
    args = [emit(before, a, name) if isinstance(a, relax.Call) else a for a in value.args]
    return normalize(relax.Call(value.op, args, value.attrs), span)
