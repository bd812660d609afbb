"""attention(x @ wq, x @ wk, x @ wv)  ->  attention(x @ [wq, wk, wv]), read where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.fused_operators import linear, packed_attention
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    Size,
    emit,
    join_spans,
    op_name,
    same_sizes,
    shape,
)
from pocketformer.passes.refusal import Refused


class MergeQkv(Fusion):
    """Self-attention whose query, key and value are equal in shape reads them from one tensor.

    Three linears of one input become one, and a product that was split into three stays whole.
    """

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The attention `call`, if it is not packed already."""
        found = composite_of(search.mod, call)
        if found is None or found[0] != "attention":
            return None
        options = options_of(found[1])
        return None if options.get("packed") else (var, _packed(search, var, call, options))


@dataclass
class Part:
    """A query, key or value: the linear of its own that it comes from."""

    call: relax.Call
    options: dict[str, Any]


def _packed(
    search: Search, var: relax.Var, call: relax.Call, options: dict[str, Any]
) -> Replacement:
    graph = search.graph
    sizes = shape(call.args[0])
    for other in call.args[1:3]:
        if not same_sizes(shape(other), sizes):
            raise Refused("query, key and value differ in shape")
    sources = [graph.root(arg) for arg in call.args[:3]]
    before: list[relax.VarBinding] = []
    whole = _split_whole(graph, sources)
    if whole is None:
        whole = _merged_linear(search, sources, before, f"{var.name}_qkv")
    batch, length, heads, size = sizes
    packed_sizes: list[Size] = [batch, length, 3, heads, size]
    packed = emit(before, relax.op.reshape(whole, packed_sizes), f"{var.name}_packed")
    new = search.composites.call(
        "attention",
        [packed, *call.args[3:]],
        lambda *a: packed_attention(*a, **options),
        {**options, "packed": True},
        call.span,
    )
    return Replacement(new, before)


def _split_whole(graph: Graph, parts: list[relax.Expr]) -> relax.Expr | None:
    """What the three parts are the thirds of, in this order, along the last axis."""
    wholes = []
    for index, part in enumerate(parts):
        item = graph.value(part)
        if not isinstance(item, relax.TupleGetItem) or int(item.index) != index:
            return None
        split = graph.value(item.tuple_value)
        if op_name(split) != "relax.split" or len(split.ty.fields) != 3:
            return None
        rank = len(shape(split.args[0]))
        same = all(same_sizes(field.shape, split.ty.fields[0].shape) for field in split.ty.fields)
        if int(split.attrs.axis) % rank != rank - 1 or not same:
            return None
        wholes.append(split.args[0])
    return wholes[0] if all(whole.same_as(wholes[0]) for whole in wholes) else None


def _merged_linear(
    search: Search, parts: list[relax.Expr], before: list[relax.VarBinding], name: str
) -> relax.Expr:
    """One linear with the weights of three beside each other."""
    linears = [_linear_of(search, part) for part in parts]
    first = linears[0]
    for other in linears[1:]:
        if not other.call.args[0].same_as(first.call.args[0]):
            raise Refused("query, key and value are computed from different inputs")
    weights = [part.call.args[1] for part in linears]
    merged = emit(before, relax.op.concat(weights, axis=1), f"{name}_weight")
    args = [first.call.args[0], merged]
    has_bias = any(part.options["bias"] for part in linears)
    if has_bias:
        biases = [_bias(part, before, name) for part in linears]
        args.append(emit(before, relax.op.concat(biases, axis=0), f"{name}_bias"))
    options: dict[str, Any] = {"bias": has_bias, "activation": "", "residual": False}
    call = search.composites.call(
        "linear",
        args,
        lambda *a: linear(*a, **options),
        options,
        join_spans([part.call for part in linears]),
    )
    return emit(before, call, name)


def _linear_of(search: Search, expr: relax.Expr) -> Part:
    graph = search.graph
    found = composite_of(search.mod, graph.value(expr))
    if found is None or found[0] != "linear":
        raise Refused("query, key and value are not all products with a weight")
    options = options_of(found[1])
    if options["activation"] or options["residual"]:
        raise Refused("a query, key or value has an activation or a residual")
    if graph.only_user(expr) is None:
        raise Refused("a query, key or value is needed elsewhere")
    return Part(graph.value(expr), options)


def _bias(part: Part, before: list[relax.VarBinding], name: str) -> relax.Expr:
    """The bias of a linear as a vector; zeros where it has none."""
    n = shape(part.call.args[1])[1]
    if not part.options["bias"]:
        return emit(before, relax.op.zeros((n,), "float32"), f"{name}_no_bias")
    bias = part.call.args[2]
    if same_sizes(shape(bias), [n]):
        return bias
    return emit(before, relax.op.reshape(bias, (n,)), f"{name}_vector")
