"""activation(x @ weight + bias) + residual  ->  linear(x, weight, bias, residual)."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes.composite import Composites
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    entry_functions,
    join_spans,
    op_name,
    scalar,
    shape,
)
from pocketformer.passes.refusal import Refused, note_refusal

ACTIVATIONS: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "relu": relax.op.nn.relu,
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
    "silu": relax.op.nn.silu,
    "tanh": relax.op.tanh,
    "sigmoid": relax.op.sigmoid,
}
OPERATORS = {
    "relax.nn.relu": "relu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
    "relax.tanh": "tanh",
    "relax.sigmoid": "sigmoid",
}


class FuseLinear:
    """Every product with a weight becomes a linear, with what follows it up to a residual sum."""

    def __call__(self, mod: IRModule) -> IRModule:
        composites = Composites(mod)
        return composites.module(
            {gvar: _fuse(func, composites) for gvar, func in entry_functions(mod)}
        )


def linear(
    x: relax.Expr, weight: relax.Expr, *rest: relax.Expr, bias: bool, activation: str, residual: bool
) -> relax.Expr:
    """activation(x @ weight + bias) + residual in plain operators.

    x is [..., k], weight [k, n], bias [n], residual [..., n]; returns [..., n].
    """
    extra = list(rest)
    out = relax.op.matmul(x, weight)
    if bias:
        out = relax.op.add(out, extra.pop(0))
    if activation:
        out = ACTIVATIONS[activation](out)
    return relax.op.add(out, extra.pop(0)) if residual else out


def _fuse(func: relax.Function, composites: Composites) -> relax.Function:
    graph = Graph(func)
    replacements: dict[relax.Var, Replacement] = {}
    for var, value in graph:
        if op_name(value) != "relax.matmul" or not graph.is_weight(value.args[1]):
            continue
        try:
            out, call = _match(graph, var, value, composites, replacements)
            replacements[out] = Replacement(call)
        except Refused as reason:
            note_refusal("fuse_linear", value, reason)
    return graph.replaced(replacements)


def _match(
    graph: Graph,
    var: relax.Var,
    product: relax.Call,
    composites: Composites,
    taken: dict[relax.Var, Replacement],
) -> tuple[relax.Var, relax.Call]:
    x, weight = product.args
    if product.ty.dtype != "float32":
        raise Refused(f"the product is {product.ty.dtype}, a linear needs float32")
    if len(shape(weight)) != 2:
        raise Refused(f"the weight has rank {len(shape(weight))}, a linear needs 2")
    if len(shape(x)) < 2:
        raise Refused("the input is a vector")
    args, passed, out = [x, weight], [product], var
    options = {"bias": False, "activation": "", "residual": False}

    user, other = _sum(graph, out)
    if other is not None and graph.is_weight(other) and _is_bias(other, shape(product)[-1]):
        options["bias"] = True
        args.append(other)
        passed.append(graph.producer[user])
        out = user

    user = graph.only_user(out)
    if user is not None and (name := OPERATORS.get(op_name(graph.producer[user]))):
        options["activation"] = name
        passed.append(graph.producer[user])
        out = user

    user, other = _sum(graph, out)
    if other is not None and user not in taken and _same_shape(other, product):
        options["residual"] = True
        args.append(other)
        passed.append(graph.producer[user])
        out = user

    def body(*params: relax.Expr) -> relax.Expr:
        return linear(*params, **options)

    return out, composites.call("linear", args, body, options, join_spans(passed))


def _sum(graph: Graph, var: relax.Var) -> tuple[relax.Var | None, relax.Expr | None]:
    """The sum that alone uses `var`, and its other term."""
    user = graph.only_user(var)
    if user is None or not graph.is_call(user, "relax.add"):
        return None, None
    left, right = graph.producer[user].args
    if left.same_as(right):
        return None, None
    return user, right if left.same_as(var) else left


def _is_bias(expr: relax.Expr, size: object) -> bool:
    sizes = shape(expr)
    return bool(sizes) and sizes[-1] == size and all(s == 1 for s in sizes[:-1])


def _same_shape(expr: relax.Expr, product: relax.Call) -> bool:
    return (
        scalar(expr) is None
        and expr.ty.dtype == product.ty.dtype
        and list(map(str, shape(expr))) == list(map(str, shape(product)))
    )
