"""quantize(reshape(dequantize(q)))  ->  reshape(q), and products of integers as those of tensors.

Activations in uint8 become int8, in which kernels store, and are quantised before they are moved.
An integer product that is scaled becomes a product of dequantised tensors, so that what follows it
is fused as after any other; fuse_quantized.py multiplies integers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, IRModule

from pocketformer.passes.graph import (
    Graph,
    constant,
    dtype,
    is_one,
    op_name,
    same_value,
    shape,
)
from pocketformer.passes.pattern import Found
from pocketformer.passes.rewrite import Match, Rewrite

MOVES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.permute_dims")
WHOLE = ("int8", "uint8")
MIDDLE = 128    # of uint8: what lies between it and int8


class FoldQuantization(Rewrite):
    """What is quantised as it was before is left as it is; tables are looked up in integers."""

    def __call__(self, mod: IRModule) -> IRModule:
        while (folded := super().__call__(mod)) is not mod:
            mod = folded
        return mod

    def matches(self, graph: Graph, var: relax.Var) -> Iterator[Match]:
        """The operator, if the rule for its kind knows something better."""
        rule = RULES.get(op_name(graph.producer[var]))
        if rule and (found := rule(graph, graph.producer[var])):
            new, calls = found
            yield Match(graph, var, Found({"better": new}, calls=(*calls, var)))

    def rewrite(self, match: Match) -> relax.Expr:
        return match.value("better")


Better = tuple[relax.Expr, list[relax.Var]] | None    # and the variables that it stands for


def per_tensor(call: relax.Call) -> bool:
    """Whether a quantize or dequantize has one scale and one zero for all."""
    return all(all(map(is_one, shape(arg))) for arg in call.args[1:])


def _quantized(graph: Graph, call: relax.Call) -> Better:
    return _requantized(graph, call) or _before_moves(graph, call)


def moved_from(graph: Graph, expr: relax.Expr) -> tuple[relax.Expr, list[relax.Var]]:
    """What `expr` is when it is not moved yet, and the moves, the last one first."""
    moves: list[relax.Var] = []
    while op_name(graph.value(expr)) in MOVES:
        moves.append(expr)
        expr = graph.value(expr).args[0]
    return expr, moves


def moved(graph: Graph, whole: relax.Expr, moves: list[relax.Var]) -> relax.Expr:
    """`whole` after the same moves."""
    for var in reversed(moves):
        move = graph.value(var)
        whole = relax.Call(move.op, [whole, *move.args[1:]], move.attrs)
    return whole


def _requantized(graph: Graph, call: relax.Call) -> Better:
    """quantize of dequantised integers, moved or not, to the same integers."""
    expr, moves = moved_from(graph, call.args[0])
    inner = graph.value(expr)
    if op_name(inner) != "relax.dequantize" or not (per_tensor(call) and per_tensor(inner)):
        return None
    whole = inner.args[0]
    if dtype(whole) != str(call.attrs.out_dtype) or not all(
        same_value(graph.value(own), graph.value(other))
        for own, other in zip(inner.args[1:], call.args[1:], strict=True)
    ):
        return None
    return moved(graph, whole, moves), [expr, *moves]


def _before_moves(graph: Graph, call: relax.Call) -> Better:
    """quantize of what is moved for it alone: bytes are moved, and stored by who computes them."""
    expr, moves = moved_from(graph, call.args[0])
    alone = all(graph.only_user(var) is not None for var in moves)
    if not moves or not alone or not per_tensor(call) or graph.is_weight(expr):
        return None
    quantize = relax.op.quantize(expr, *call.args[1:], -1, str(call.attrs.out_dtype))
    return moved(graph, quantize, moves), moves


def _with_signs(graph: Graph, call: relax.Call) -> Better:
    """dequantize of what was quantised to uint8: of int8, each number less by 128, and so exact."""
    expr, moves = moved_from(graph, call.args[0])
    inner = graph.value(expr)
    if op_name(inner) != "relax.quantize" or str(inner.attrs.out_dtype) != "uint8":
        return None
    zeros = [each.args[2] for each in (inner, call)]
    if not all(isinstance(zero, GenericConst) for zero in zeros) or graph.is_weight(expr):
        return None
    if not (per_tensor(inner) and per_tensor(call) and _dequantized_only(graph, expr)):
        return None
    less = [relax.const((constant(zero).astype("int16") - MIDDLE).astype("int8")) for zero in zeros]
    quantize = relax.op.quantize(inner.args[0], inner.args[1], less[0], -1, "int8")
    whole = moved(graph, quantize, moves)
    return relax.op.dequantize(whole, call.args[1], less[1], -1, dtype(call)), [expr, *moves]


def _dequantized_only(graph: Graph, var: relax.Var) -> bool:
    """Whether all that reads integers, moved or not, dequantises them."""
    return var not in graph.outputs and all(
        graph.is_call(user, "relax.dequantize")
        or (graph.is_call(user, *MOVES) and _dequantized_only(graph, user))
        for user in graph.users.get(var, []))


def _looked_up(graph: Graph, call: relax.Call) -> Better:
    """take of a dequantised weight: only what is taken is dequantised."""
    table, places = call.args
    inner = graph.value(table)
    if op_name(inner) != "relax.dequantize" or not graph.is_weight(table):
        return None
    if call.attrs.axis is None or not per_tensor(inner):
        return None
    taken = relax.op.take(inner.args[0], places, int(call.attrs.axis), mode=str(call.attrs.mode))
    return relax.op.dequantize(taken, *inner.args[1:], -1, dtype(call)), [table]


def _scaled_product(graph: Graph, call: relax.Call) -> Better:
    """A product of integers in int32, as float32 and times a scale."""
    for sums, scale in (call.args, call.args[::-1]):
        cast = graph.value(sums)
        if op_name(cast) != "relax.astype" or dtype(cast) != "float32":
            continue
        product = graph.value(cast.args[0])
        if op_name(product) != "relax.matmul" or dtype(product) != "int32" or not shape(product):
            continue
        left, right = (integers_of(graph, arg) for arg in product.args)
        scales = _split_scale(graph, scale, shape(product)[-1])
        if left is None or right is None or scales is None:
            continue
        if shape(scales[1]) and not graph.is_weight(right[0]):
            continue    # no kernel scales columns of activations: their product stays in int32
        sides = [
            relax.op.dequantize(whole, step, zero, -1, "float32")
            for (whole, zero), step in zip((left, right), scales, strict=True)
        ]
        return relax.op.matmul(*sides), [sums, cast.args[0]]
    return None


def integers_of(graph: Graph, side: relax.Expr) -> tuple[relax.Expr, relax.Expr] | None:
    """q and zero of astype(q, "int32") - astype(zero, "int32")."""
    call = graph.value(side)
    zero: relax.Expr | None = None
    if op_name(call) == "relax.subtract":
        cast = graph.value(call.args[1])
        if op_name(cast) != "relax.astype":
            return None
        zero, call = cast.args[0], graph.value(call.args[0])
    if op_name(call) != "relax.astype" or dtype(call.args[0]) not in WHOLE:
        return None
    whole = call.args[0]
    if zero is None:
        zero = relax.const(np.zeros((), dtype(whole)))
    return (whole, zero) if len(shape(zero)) < 2 else None


def _split_scale(
    graph: Graph, scale: relax.Expr, columns: object
) -> tuple[relax.Expr, relax.Expr] | None:
    """The scales of a product's sides, whose product is `scale`."""
    call = graph.value(scale)
    both = call.args if op_name(call) == "relax.multiply" else [scale, relax.const(1.0, "float32")]
    for left, right in (both, both[::-1]):
        vector = [size for size in shape(right) if not is_one(size)]
        if all(map(is_one, shape(left))) and len(shape(right)) < 2 and (
            not vector or str(vector[0]) == str(columns)
        ):
            return _scalar(left), right if vector else _scalar(right)
    return None


def _scalar(expr: relax.Expr) -> relax.Expr:
    return relax.op.reshape(expr, []) if shape(expr) else expr


RULES: dict[str, Callable[[Graph, relax.Call], Better]] = {
    "relax.quantize": _quantized,
    "relax.dequantize": _with_signs,
    "relax.take": _looked_up,
    "relax.multiply": _scaled_product,
}
