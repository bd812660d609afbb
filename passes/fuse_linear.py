"""activation(x @ weight + bias) + residual  ->  linear(x, weight, bias, residual)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import relax

from pocketformer.passes.composite import Composites
from pocketformer.passes.fused_operators import linear
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    Size,
    dtype,
    emit,
    is_one,
    join_spans,
    normalize,
    op_name,
    same_sizes,
    shape,
)
from pocketformer.passes.refusal import Refused

OPERATORS = {
    "relax.nn.relu": "relu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
    "relax.tanh": "tanh",
    "relax.sigmoid": "sigmoid",
}


class FuseLinear(Fusion):
    """Every product with a weight becomes a linear, with what follows it up to a residual sum."""

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The linear whose product is `call`."""
        graph = search.graph
        if op_name(call) != "relax.matmul" or not graph.is_weight(call.args[1]):
            return None
        match = _match(graph, var, call, search.replacements)
        return match.out, _replacement(graph, match, search.composites)


@dataclass
class Match:
    """A product with a weight and what follows it, up to `out`."""

    out: relax.Var
    args: list[relax.Expr]
    passed: list[relax.Expr]
    bias: bool = False
    activation: str = ""
    residual: bool = False

    def take(self, graph: Graph, user: relax.Var) -> None:
        """Let the match reach up to `user`."""
        while not self.out.same_as(user):
            self.out = graph.users[self.out][0]
            self.passed.append(graph.producer[self.out])


def _match(
    graph: Graph, var: relax.Var, product: relax.Call, taken: Mapping[relax.Var, Replacement]
) -> Match:
    x, weight = product.args
    if dtype(product) != "float32":
        raise Refused(f"the product is {dtype(product)}, a linear needs float32")
    if len(shape(weight)) != 2:
        raise Refused(f"the weight has rank {len(shape(weight))}, a linear needs 2")
    if len(shape(x)) < 2:
        raise Refused("the input is a vector")
    match = Match(var, [x, weight], [product])

    user, other = _sum(graph, match.out)
    if other is not None and graph.is_weight(other) and _is_bias(other, shape(product)[-1]):
        match.bias = True
        match.args.append(other)
        match.take(graph, user)

    user = _next(graph, match.out)
    if user is not None and (name := OPERATORS.get(op_name(graph.producer[user]))):
        match.activation = name
        match.take(graph, user)

    user, other = _sum(graph, match.out)
    if other is not None and user not in taken and _is_residual(other, graph.producer[user]):
        match.residual = True
        match.args.append(other)
        match.take(graph, user)
    return match


def _replacement(graph: Graph, match: Match, composites: Composites) -> Replacement:
    options: dict[str, Any] = {
        "bias": match.bias,
        "activation": match.activation,
        "residual": match.residual,
    }
    sizes = shape(match.passed[0])
    before: list[relax.VarBinding] = []
    name = match.out.name
    if match.residual and not same_sizes(shape(match.args[-1]), sizes):
        match.args[-1] = emit(before, relax.op.reshape(match.args[-1], sizes), f"{name}_residual")
    call = composites.call(
        "linear", match.args, lambda *a: linear(*a, **options), options, join_spans(match.passed)
    )
    if same_sizes(shape(match.out), sizes):
        return Replacement(call, before)
    flat = emit(before, call, f"{name}_linear")
    return Replacement(normalize(relax.op.reshape(flat, match.out.ty.shape), call.span), before)


def _next(graph: Graph, var: relax.Var) -> relax.Var | None:
    """What alone uses `var`, seen through reshapes that keep its last axis."""
    user = graph.only_user(var)
    while user is not None and graph.is_call(user, "relax.reshape"):
        if not same_sizes(shape(user)[-1:], shape(var)[-1:]):
            return None
        user = graph.only_user(user)
    return user


def _sum(graph: Graph, var: relax.Var) -> tuple[relax.Var | None, relax.Expr | None]:
    """The sum that alone uses `var`, perhaps reshaped, and its other term.

    The sum has as many elements as `var`: a term that repeats it would have to be computed after.
    """
    user = _next(graph, var)
    if user is None or not graph.is_call(user, "relax.add"):
        return None, None
    left, right = graph.producer[user].args
    if left.same_as(right):
        return None, None
    own, other = (left, right) if _comes_from(graph, left, var) else (right, left)
    if not same_sizes(_without_ones(own), _without_ones(graph.producer[user])):
        return None, None
    return user, other


def _comes_from(graph: Graph, expr: relax.Expr, var: relax.Var) -> bool:
    while graph.is_call(expr, "relax.reshape") and not expr.same_as(var):
        expr = graph.value(expr).args[0]
    return expr.same_as(var)


def _without_ones(expr: relax.Expr) -> list[Size]:
    return [size for size in shape(expr) if not is_one(size)]


def _is_bias(expr: relax.Expr, width: Size) -> bool:
    sizes = shape(expr)
    vector = bool(sizes) and all(is_one(size) for size in sizes[:-1])
    return vector and same_sizes(sizes[-1:], [width])


def _is_residual(expr: relax.Expr, total: relax.Call) -> bool:
    return dtype(expr) == dtype(total) and same_sizes(shape(expr), shape(total))
