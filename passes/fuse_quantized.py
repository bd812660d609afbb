"""linear(dequantize(x), dequantize(w), b)  ->  quantized_linear(x, w, scales, b), in integers.

Where x is no integers, the weights alone are: weight_only_linear. Products in int32 are integer
kernels too. What quantises becomes the composite that kernels store by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, Span

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.fold_quantization import WHOLE, integers_of, per_tensor
from pocketformer.passes.fused_operators import (
    ACTIVATIONS,
    quantize,
    quantized_linear,
    weight_only_linear,
)
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    constant,
    dtype,
    emit,
    is_one,
    join_spans,
    normalize,
    op_name,
    shape,
)
from pocketformer.passes.refusal import Refused, check_sums
from pocketformer.passes.short_weights import Evaluate, ShortWeight, short_weight

GROUP_STEP = 8    # groups of 4 bits that kernels take are multiples of it


@dataclass(frozen=True)
class FuseQuantized(Fusion):
    """Linears of dequantised weights, products of integers with weights, and quantize.

    `evaluate` computes what depends on weights only: the integers of a weight in groups have to
    fit 4 bits.
    """

    evaluate: Evaluate | None = None

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The linear, product or quantize `call`."""
        found = composite_of(search.mod, call)
        if found is not None and found[0] == "linear":
            return _linear(search, var, call, options_of(found[1]), self.evaluate)
        if op_name(call) == "relax.quantize":
            return _quantize(search, var, call)
        if op_name(call) == "relax.matmul" and dtype(call) == "int32":
            return _product(search, var, call)
        return None


@dataclass(frozen=True, eq=False)
class _Input:
    """(whole - zero) * scale: whole int8 or uint8 [..., k], zero and scale scalars."""

    whole: relax.Expr
    zero: relax.Expr
    scale: relax.Expr | None = None


@dataclass
class _Writer:
    """What replaces `var`: `before` are the bindings that its new value needs."""

    search: Search
    var: relax.Var
    span: Span | None
    before: list[relax.VarBinding] = field(default_factory=list)

    def emit(self, value: relax.Expr, name: str) -> relax.Expr:
        return emit(self.before, value, f"{self.var.name}_{name}", self.span)

    def composite(
        self, body: Callable[..., relax.Expr], args: list[relax.Expr], options: dict[str, Any]
    ) -> relax.Call:
        return self.search.composites.call(
            body.__name__, args, lambda *a: body(*a, **options), options, self.span)

    def done(self, value: relax.Expr) -> tuple[relax.Var, Replacement]:
        return self.var, Replacement(normalize(value, self.span), self.before)


def _linear(
    search: Search,
    var: relax.Var,
    call: relax.Call,
    options: dict[str, Any],
    evaluate: Evaluate | None,
) -> tuple[relax.Var, Replacement] | None:
    graph = search.graph
    writer = _Writer(search, var, call.span)
    weight = short_weight(graph, call.args[1], writer.before, var.name, evaluate)
    if weight is None:
        return None
    x = _input(graph, call.args[0])
    passed = [*weight.passed, *([] if x is None else [graph.value(call.args[0])]), call]
    writer.span = join_spans(passed)
    end = {name: options[name] for name in ("bias", "activation", "residual")}
    if weight.group is not None or x is None:
        return writer.done(_weight_only(writer, call, weight, end))
    check_sums(shape(weight.whole)[0])
    if weight.zero is not None:
        return writer.done(_with_weight_zero(writer, call, x, weight, end))
    scales, scaled = [weight.scale], not graph.is_weight(x.scale)
    if scaled:
        scales.append(writer.emit(relax.op.reshape(x.scale, [1]), "x_scale"))
    else:
        scales = [writer.emit(relax.op.multiply(weight.scale, x.scale), "scale")]
    zero = _zero(writer, x.zero)
    args = [x.whole, weight.whole, *scales, *zero, *call.args[2:]]
    return writer.done(writer.composite(
        quantized_linear, args, {"scaled": scaled, "zero": bool(zero), **end}))


def _input(graph: Graph, expr: relax.Expr) -> _Input | None:
    call = graph.value(expr)
    if op_name(call) != "relax.dequantize" or not per_tensor(call):
        return None
    whole, scale, zero = call.args
    return _Input(whole, zero, scale) if dtype(whole) in WHOLE else None


def _zero(writer: _Writer, zero: relax.Expr) -> list[relax.Expr]:
    """x's zero as a kernel takes it; none for 0."""
    if isinstance(zero, GenericConst):
        value = constant(zero).astype("int32").reshape(1)
        return [relax.const(value)] if value.any() else []
    return [writer.emit(relax.op.astype(relax.op.reshape(zero, [1]), "int32"), "x_zero")]


def _weight_only(
    writer: _Writer, call: relax.Call, weight: ShortWeight, end: dict[str, Any]
) -> relax.Call:
    x, _, *rest = call.args
    k, n = shape(call.args[1])
    if weight.zero is not None:
        raise Refused("the weight has a zero point, x is no integers")
    if dtype(x) != "float32":
        raise Refused(f"x is {dtype(x)}")
    if weight.group is None:
        scale = writer.emit(relax.op.reshape(weight.scale, [1, n]), "scale")
        return writer.composite(
            weight_only_linear, [x, weight.whole, scale, *rest], {"bits": 8, "group": k, **end})
    if weight.group % GROUP_STEP:
        raise Refused(f"the weight has groups of {weight.group}")
    args = [x, weight.whole, weight.scale, *rest]
    return writer.composite(weight_only_linear, args, {"bits": 4, "group": weight.group, **end})


def _with_weight_zero(
    writer: _Writer, call: relax.Call, x: _Input, weight: ShortWeight, end: dict[str, Any]
) -> relax.Expr:
    """x @ (w - zero) = x @ w - sum(x) * zero for each row of x, in integers up to there."""
    zero = _zero(writer, x.zero)
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
    writer: _Writer, whole: relax.Expr, weight: relax.Expr, zero: list[relax.Expr]
) -> relax.Call:
    """(whole - zero) @ weight in int32."""
    ones = writer.emit(relax.op.ones((shape(weight)[1],), "float32"), "ones")
    options = {"zero": bool(zero), "out_dtype": "int32"}
    return writer.composite(quantized_linear, [whole, weight, ones, *zero], options)


def _product(
    search: Search, var: relax.Var, call: relax.Call
) -> tuple[relax.Var, Replacement] | None:
    graph = search.graph
    left, right = (integers_of(graph, arg) for arg in call.args)
    if left is None or right is None or not graph.is_weight(right[0]):
        return None
    writer = _Writer(search, var, call.span)
    weight, weight_zero = right
    if dtype(weight) != "int8" or len(shape(weight)) != 2 or len(shape(left[0])) < 2:
        raise Refused(f"the weight is {dtype(weight)} of rank {len(shape(weight))}")
    if any(not is_one(size) for size in shape(left[1])):
        raise Refused("rows have zero points of their own")
    zero = _zero(writer, left[1])
    sums = _sums(writer, left[0], weight, zero)
    if isinstance(weight_zero, GenericConst) and not np.any(constant(weight_zero)):
        return writer.done(sums)
    first = writer.emit(sums, "sums")
    total = writer.emit(relax.op.sum(call.args[0], -1, keepdims=True), "row_sums")
    moved = relax.op.multiply(total, relax.op.astype(weight_zero, "int32"))
    return writer.done(_bound(writer, relax.op.subtract(first, moved)))


def _quantize(
    search: Search, var: relax.Var, call: relax.Call
) -> tuple[relax.Var, Replacement] | None:
    x, scale, zero = call.args
    rank, kind = len(shape(x)), str(call.attrs.out_dtype)
    last = int(call.attrs.axis) % max(rank, 1) == rank - 1
    if kind not in WHOLE or dtype(x) != "float32" or not rank:
        raise Refused(f"{dtype(x)} of rank {rank} becomes {kind}")
    if not per_tensor(call) and not last:
        raise Refused(f"scales lie along axis {int(call.attrs.axis)}")
    writer = _Writer(search, var, call.span)
    vectors = [arg if shape(arg) else relax.op.reshape(arg, [1]) for arg in (scale, zero)]
    factor = relax.op.divide(relax.const(1.0, "float32"), vectors[0])
    args = [
        x, writer.emit(factor, "factor"),
        writer.emit(relax.op.astype(vectors[1], "int32"), "zero"),
    ]    # fmt: skip
    return writer.done(writer.composite(quantize, args, {"dtype": kind}))


def _bound(writer: _Writer, tree: relax.Expr) -> relax.Expr:
    """`tree` with all but its root bound."""
    args = [
        writer.emit(arg, "step") if isinstance(arg, relax.Call) else arg for arg in tree.args]
    return relax.Call(tree.op, args, tree.attrs, tree.ty_args, tree.span)
