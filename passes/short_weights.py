"""Weights that are dequantised, as what they are stored in: small integers and scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from pocketformer.passes.graph import (
    Graph,
    constant,
    dtype,
    emit,
    is_one,
    op_name,
    shape,
)
from pocketformer.passes.refusal import Refused

LOW, HIGH = -8, 7    # what 4 bits hold
# What an expression of a graph is that depends on weights and constants only.
Evaluate: TypeAlias = Callable[[Graph, relax.Expr], np.ndarray]


@dataclass(frozen=True, eq=False)
class ShortWeight:
    """(whole - zero) * scale: whole int8 [k, n], scale [n], zero int8 [n] or, for none, None.

    With a `group`, whole has 4 bits and scale is [k / group, n]. `passed` are the calls between.
    """

    whole: relax.Expr
    scale: relax.Expr
    zero: relax.Expr | None
    group: int | None
    passed: list[relax.Call] = field(default_factory=list)


def short_weight(
    graph: Graph,
    expr: relax.Expr,
    before: list[relax.VarBinding],
    name: str,
    evaluate: Evaluate | None = None,
) -> ShortWeight | None:
    """The weight [k, n] `expr` in few bits, or None; what it needs is bound in `before`.

    Without `evaluate` only those of constants count as 4 bits. Raises Refused where the weight is
    computed from integers, but no kernel can read these.
    """
    found = _found(graph, expr, before, name, evaluate)
    if found is None and _has_integers(graph, expr):
        way = op_name(graph.value(expr)).removeprefix("relax.")
        raise Refused(f"the weight is stored as integers, but no kernel reads them through {way}")
    return found


def _has_integers(graph: Graph, expr: relax.Expr) -> bool:
    """Whether `expr` is computed from a matrix of integers of 8 bits."""
    left, seen = [expr], set()
    while left:
        each = left.pop()
        value = graph.value(each)
        if isinstance(value, relax.Tuple):
            left += list(value.fields)
        elif isinstance(each.ty, relax.TensorType) and graph.is_weight(each) and each not in seen:
            seen.add(each)
            if dtype(each) in ("int8", "uint8") and len(shape(each)) > 1:
                return True
            left += list(value.args) if isinstance(value, relax.Call) else []
    return False


def _found(
    graph: Graph,
    expr: relax.Expr,
    before: list[relax.VarBinding],
    name: str,
    evaluate: Evaluate | None,
) -> ShortWeight | None:
    value = graph.value(expr)
    match op_name(value):
        case "relax.dequantize":
            return _dequantized(value, before, name)
        case "relax.reshape":
            return _in_groups(graph, value, evaluate)
        case "relax.permute_dims":
            return _turned(graph, value, before, name)
        case "relax.concat":
            return _joined(graph, value, before, name, evaluate)
    return None


def _dequantized(
    call: relax.Call, before: list[relax.VarBinding], name: str
) -> ShortWeight | None:
    whole, scale, zero = call.args
    k, n = shape(call)
    vector = any(not is_one(size) for arg in (scale, zero) for size in shape(arg))
    if dtype(whole) != "int8" or dtype(scale) != "float32":
        raise Refused(f"the weight is {dtype(whole)} with scales of {dtype(scale)}")
    if vector and int(call.attrs.axis) % 2 != 1 and k != 1:
        raise Refused("the weight has a scale for each row")
    no_zero = isinstance(zero, GenericConst) and not np.any(constant(zero))
    return ShortWeight(
        whole, _wide(scale, n, before, name), None if no_zero else _wide(zero, n, before, name),
        None, [call])


def _wide(vector: relax.Expr, n: int, before: list[relax.VarBinding], name: str) -> relax.Expr:
    """A number for each of `n` columns."""
    if shape(vector) == [n]:
        return vector
    return emit(before, relax.op.broadcast_to(vector, (n,)), f"{name}_scale")


def _turned(
    graph: Graph, call: relax.Call, before: list[relax.VarBinding], name: str
) -> ShortWeight | None:
    inner = graph.value(call.args[0])
    if op_name(inner) != "relax.dequantize" or len(shape(inner)) != 2:
        return None
    whole, scale, zero = inner.args
    turned = emit(before, relax.op.permute_dims(whole), f"{name}_turned")
    axis = 1 - int(inner.attrs.axis) % 2
    found = _dequantized(
        relax.BlockBuilder().normalize(relax.op.dequantize(turned, scale, zero, axis)),
        before, name)
    return found and ShortWeight(
        found.whole, found.scale, found.zero, None, [inner, call])


def _in_groups(
    graph: Graph, call: relax.Call, evaluate: Evaluate | None
) -> ShortWeight | None:
    """reshape(reshape(whole, [k / group, group, n]) * scale[k / group, 1, n], [k, n])."""
    product = graph.value(call.args[0])
    if op_name(product) != "relax.multiply" or len(shape(product)) != 3:
        return None
    groups, group, n = shape(product)
    of_groups = [arg for arg in product.args if shape(arg) == [groups, 1, n]]
    whole_parts = [arg for arg in product.args if shape(arg) == [groups, group, n]]
    if len(of_groups) != 1 or len(whole_parts) != 1:
        return None
    parts, scales = graph.value(whole_parts[0]), graph.value(of_groups[0])
    if op_name(parts) != "relax.reshape" or op_name(scales) not in (
        "relax.reshape", "relax.expand_dims"
    ):
        return None
    cast = graph.value(parts.args[0])
    if op_name(cast) != "relax.astype":
        return None
    whole, scale = cast.args[0], scales.args[0]
    if dtype(whole) != "int8" or shape(whole) != shape(call) or shape(scale) != [groups, n]:
        return None
    _check_four_bits(graph, whole, evaluate)
    return ShortWeight(whole, scale, None, group, [cast, parts, scales, product, call])


def _check_four_bits(graph: Graph, whole: relax.Expr, evaluate: Evaluate | None) -> None:
    """Raise Refused where the integers `whole` are more than 4 bits hold, or not known."""
    if isinstance(whole, GenericConst):
        array = constant(whole)
    elif evaluate is not None and graph.is_weight(whole):
        array = evaluate(graph, whole)
    else:
        raise Refused("the integers of the weight are not known, 4 bits hold -8 to 7")
    low, high = int(array.min()), int(array.max())
    if low < LOW or high > HIGH:
        raise Refused(
            f"the integers of the weight reach from {low} to {high}, 4 bits hold {LOW} to {HIGH}")


def _joined(
    graph: Graph,
    call: relax.Call,
    before: list[relax.VarBinding],
    name: str,
    evaluate: Evaluate | None,
) -> ShortWeight | None:
    """Weights of one kind beside each other."""
    parts = graph.value(call.args[0])
    if int(call.attrs.axis) % 2 != 1 or not isinstance(parts, relax.Tuple):
        return None
    found: list[ShortWeight] = []
    for index, part in enumerate(parts.fields):
        short = short_weight(graph, part, before, f"{name}_{index}", evaluate)
        if short is None or short.group != (found or [short])[0].group:
            return None
        found.append(short)

    def beside(arrays: list[relax.Expr], axis: int, what: str) -> relax.Expr:
        return emit(before, relax.op.concat(arrays, axis), f"{name}_{what}")

    zero = None
    if any(part.zero is not None for part in found):
        zero = beside([_zeros(part) if part.zero is None else part.zero for part in found], 0,
                      "zero")
    return ShortWeight(
        beside([part.whole for part in found], 1, "whole"),
        beside([part.scale for part in found], -1, "scale"),
        zero,
        found[0].group,
        [call for part in found for call in part.passed],
    )


def _zeros(weight: ShortWeight) -> relax.Expr:
    return relax.const(np.zeros(shape(weight.whole)[1], "int8"))
