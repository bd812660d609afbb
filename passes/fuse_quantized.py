"""linear(dequantize(x), dequantize(w), b)  ->  quantized_linear(x, w, scales, b), in integers.

Where x is no integers, the weights alone are: weight_only_linear. Products in int32 are integer
kernels too, and those of two activations. What quantises becomes the composite that kernels store
by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.fold_quantization import WHOLE, per_tensor
from pocketformer.passes.fused_operators import quantize, quantized_linear, weight_only_linear
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import Replacement, dtype, join_spans, op_name, shape
from pocketformer.passes.quantized_products import (
    product_of_activations,
    product_of_sums,
    with_weight_zero,
)
from pocketformer.passes.quantized_writer import Writer, integers_in, zeros_of
from pocketformer.passes.refusal import Refused, check_sums
from pocketformer.passes.short_weights import Evaluate, ShortWeight, short_weight
from pocketformer.schedules.workloads import MOST_BYTES, MOST_PRODUCTS

GROUP_STEP = 8    # groups of 4 bits that kernels take are multiples of it


@dataclass(frozen=True)
class FuseQuantized(Fusion):
    """Linears of dequantised weights, other products of integers, and quantize.

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
        if op_name(call) == "relax.matmul":
            product = product_of_sums if dtype(call) == "int32" else product_of_activations
            return product(search, var, call)
        return None


def _linear(
    search: Search,
    var: relax.Var,
    call: relax.Call,
    options: dict[str, Any],
    evaluate: Evaluate | None,
) -> tuple[relax.Var, Replacement] | None:
    graph = search.graph
    writer = Writer(search, var, call.span)
    weight = short_weight(graph, call.args[1], writer.before, var.name, evaluate)
    if weight is None:
        return None
    x = integers_in(graph, call.args[0])
    passed = [*weight.passed, *([] if x is None else [graph.value(call.args[0])]), call]
    writer.span = join_spans(passed)
    end = {name: options[name] for name in ("bias", "activation", "residual")}
    if weight.group is not None or x is None:
        return writer.done(_weight_only(writer, call, weight, end))
    check_sums(shape(weight.whole)[0], MOST_PRODUCTS if weight.zero is None else MOST_BYTES)
    if weight.zero is not None:
        return writer.done(with_weight_zero(writer, call, x, weight, end))
    scales, scaled = [weight.scale], not graph.is_weight(x.scale)
    if scaled:
        scales.append(writer.emit(relax.op.reshape(x.scale, [1]), "x_scale"))
    else:
        scales = [writer.emit(relax.op.multiply(weight.scale, x.scale), "scale")]
    zero = zeros_of(writer, x.zero)
    args = [x.whole, weight.whole, *scales, *zero, *call.args[2:]]
    return writer.done(writer.composite(
        quantized_linear, args, {"scaled": scaled, "zero": bool(zero), **end}))


def _weight_only(
    writer: Writer, call: relax.Call, weight: ShortWeight, end: dict[str, Any]
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
    writer = Writer(search, var, call.span)
    vectors = [arg if shape(arg) else relax.op.reshape(arg, [1]) for arg in (scale, zero)]
    factor = relax.op.divide(relax.const(1.0, "float32"), vectors[0])
    args = [
        x, writer.emit(factor, "factor"),
        writer.emit(relax.op.astype(vectors[1], "int32"), "zero"),
    ]    # fmt: skip
    return writer.done(writer.composite(quantize, args, {"dtype": kind}))
