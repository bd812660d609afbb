"""Products of integers, as sums in int32 or scaled, in integer kernels.

matmul(dequantize(a), dequantize(b))  ->  quantized_matmul(a, b, zeros, scale).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from pocketformer.passes.fold_quantization import integers_of, moved, moved_from
from pocketformer.passes.fused_operators import ACTIVATIONS, quantized_linear, quantized_matmul
from pocketformer.passes.fusion import Search
from pocketformer.passes.graph import (
    Replacement,
    constant,
    dtype,
    is_one,
    join_spans,
    same_sizes,
    shape,
)
from pocketformer.passes.quantized_writer import (
    Integers,
    Writer,
    integers_in,
    zero_of,
    zeros_of,
)
from pocketformer.passes.refusal import Refused, check_sums
from pocketformer.passes.short_weights import ShortWeight
from pocketformer.schedules.workloads import MOST_BYTES


def product_of_sums(
    search: Search, var: relax.Var, call: relax.Call
) -> tuple[relax.Var, Replacement] | None:
    """What replaces a product in int32 of integers less their zeros, None where it is none."""
    graph = search.graph
    left, right = (integers_of(graph, arg) for arg in call.args)
    if left is None or right is None:
        return None
    if any(not is_one(size) for size in shape(left[1])):
        raise Refused("rows have zero points of their own")
    writer = Writer(search, var, call.span)
    weight, weight_zero = right
    if not graph.is_weight(weight) or dtype(weight) != "int8" or len(shape(weight)) != 2:
        if any(not is_one(size) for size in shape(weight_zero)):
            raise Refused("columns have zero points of their own")
        return writer.done(_both(writer, Integers(*left), Integers(*right)))
    if len(shape(left[0])) < 2:
        raise Refused("one side is a vector")
    zero = zeros_of(writer, left[1])
    sums = _sums(writer, left[0], weight, zero)
    if isinstance(weight_zero, GenericConst) and not np.any(constant(weight_zero)):
        return writer.done(sums)
    first = writer.emit(sums, "sums")
    total = writer.emit(relax.op.sum(call.args[0], -1, keepdims=True), "row_sums")
    moved = relax.op.multiply(total, relax.op.astype(weight_zero, "int32"))
    return writer.done(_bound(writer, relax.op.subtract(first, moved)))


def product_of_activations(
    search: Search, var: relax.Var, call: relax.Call
) -> tuple[relax.Var, Replacement] | None:
    """What replaces a product of two dequantised activations, None where it is none."""
    graph = search.graph
    sides = [moved_from(graph, arg) for arg in call.args]
    left, right = (integers_in(graph, expr) for expr, _ in sides)
    if left is None or right is None:
        return None
    passed = [graph.value(expr) for side, moves in sides for expr in (side, *moves)]
    writer = Writer(search, var, join_spans([*passed, call]))
    for side, (_, moves) in zip((left, right), sides, strict=True):
        if moves:
            side.whole = writer.emit(moved(graph, side.whole, moves), "moved")
    return writer.done(_both(writer, left, right))


def _both(writer: Writer, left: Integers, right: Integers) -> relax.Call:
    """The product of two tensors, in int32 where they have no scales."""
    lead, other = shape(left.whole)[:-2], shape(right.whole)[:-2]
    if len(shape(left.whole)) < 2 or len(shape(right.whole)) < 2:
        raise Refused("one side is a vector")
    whole = right.whole
    if other and not same_sizes(lead, other):
        if not all(map(is_one, other)):
            raise Refused("one side is repeated for batches of the other")
        whole = writer.emit(relax.op.reshape(whole, shape(whole)[-2:]), "right")
    check_sums(shape(left.whole)[-1], MOST_BYTES)
    args = [left.whole, whole, zero_of(writer, left.zero), zero_of(writer, right.zero)]
    if left.scale is None or right.scale is None:
        return writer.composite(quantized_matmul, args, {"out_dtype": "int32"})
    scale = relax.op.multiply(left.scale, right.scale)
    args.append(writer.emit(relax.op.reshape(scale, [1]), "scale"))
    return writer.composite(quantized_matmul, args, {})


def with_weight_zero(
    writer: Writer, call: relax.Call, x: Integers, weight: ShortWeight, end: dict[str, Any]
) -> relax.Expr:
    """x @ (w - zero) = x @ w - sum(x) * zero for each row of x, in integers up to there."""
    zero = zeros_of(writer, x.zero)
    sums = writer.emit(_sums(writer, x.whole, weight.whole, zero), "sums")
    wide = relax.op.astype(x.whole, "int32")
    wide = relax.op.subtract(wide, zero[0]) if zero else wide
    total = writer.emit(relax.op.sum(wide, -1, keepdims=True), "row_sums")
    moved = relax.op.multiply(total, relax.op.astype(weight.zero, "int32"))
    scale = writer.emit(relax.op.multiply(weight.scale, x.scale), "scale")
    rest = list(call.args[2:])
    out = relax.op.multiply(relax.op.astype(relax.op.subtract(sums, moved), "float32"), scale)
    if end["bias"]:
        out = relax.op.add(out, rest.pop(0))
    if end["activation"]:
        out = ACTIVATIONS[end["activation"]](out)
    if end["residual"]:
        out = relax.op.add(out, rest.pop(0))
    return _bound(writer, out)


def _sums(
    writer: Writer, whole: relax.Expr, weight: relax.Expr, zero: list[relax.Expr]
) -> relax.Call:
    """(whole - zero) @ weight in int32."""
    ones = writer.emit(relax.op.ones((shape(weight)[1],), "float32"), "ones")
    options = {"zero": bool(zero), "out_dtype": "int32"}
    return writer.composite(quantized_linear, [whole, weight, ones, *zero], options)


def _bound(writer: Writer, tree: relax.Expr) -> relax.Expr:
    """`tree` with all but its root bound."""
    args = [
        writer.emit(arg, "step") if isinstance(arg, relax.Call) else arg for arg in tree.args]
    return relax.Call(tree.op, args, tree.attrs, tree.ty_args, tree.span)
