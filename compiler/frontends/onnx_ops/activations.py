"""Activation functions, with softmax and a dropout that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import broadcast
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops.elementwise import number, unary
from pocketformer.compiler.frontends.onnx_values import Value


def _prelu(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    x, slope = broadcast(b, inputs[0], inputs[1])
    return R.where(R.less(x, number(b, 0, x)), R.multiply(x, slope), x)


def _gelu(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    form = node.text("approximate", "none")
    if form not in ("none", "tanh"):
        raise BadModel(f"it has no approximation {form!r}")
    return R.nn.gelu(x) if form == "none" else R.nn.gelu_tanh(x)


def _elu(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    return _exponential_below_zero(b, x, node.number("alpha", 1.0), 1.0)


def _celu(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    alpha = node.number("alpha", 1.0)
    return _exponential_below_zero(b, x, alpha, 1.0 / alpha)


def _selu(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    alpha = node.number("alpha", 1.67326319217681884765625)
    scaled = _exponential_below_zero(b, x, alpha, 1.0)
    return R.multiply(scaled, number(b, node.number("gamma", 1.05070102214813232421875), x))


def _exponential_below_zero(
    b: Builder, x: relax.Expr, alpha: float, inner: float
) -> relax.Expr:
    zero = number(b, 0, x)
    below = R.exp(R.multiply(R.minimum(x, zero), number(b, inner, x)))
    curve = R.multiply(R.subtract(below, number(b, 1, x)), number(b, alpha, x))
    return R.add(R.maximum(x, zero), curve)


def _hard_sigmoid(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    return _ramp(b, x, node.number("alpha", 0.2), node.number("beta", 0.5))


def _hard_swish(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    return R.multiply(x, _ramp(b, x, 1 / 6, 0.5))


def _ramp(b: Builder, x: relax.Expr, slope: float, offset: float) -> relax.Expr:
    line = R.add(R.multiply(x, number(b, slope, x)), number(b, offset, x))
    return R.minimum(R.maximum(line, number(b, 0, x)), number(b, 1, x))


def softplus(b: Builder, x: relax.Expr) -> relax.Expr:
    """log(1 + exp(x)), written so that a large x does not overflow."""
    small = R.exp(R.negative(R.abs(x)))
    return R.add(R.maximum(x, number(b, 0, x)), R.log(R.add(small, number(b, 1, x))))


def _swish(default: float) -> Converter:
    """x * sigmoid(alpha * x)."""

    def run(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
        if (alpha := node.number("alpha", default)) == 1.0:
            return R.nn.silu(x)
        return R.multiply(x, R.sigmoid(R.multiply(x, number(b, alpha, x))))

    return unary(run)


def _bias_gelu(approximate: bool) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value | None]) -> relax.Expr:
        x = b.tensor(inputs[0])
        if len(inputs) > 1 and inputs[1] is not None:
            x = b.emit(R.add(*broadcast(b, x, inputs[1])))
        return R.nn.gelu_tanh(x) if approximate else R.nn.gelu(x)

    return run


def _softmax(make: Callable[..., relax.Expr]) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
        x = b.tensor(inputs[0])
        shape = b.shape(x)
        old = node.opset < 13
        axis = b.axis(node.integer("axis", 1 if old else -1), len(shape))
        if not old or axis == len(shape) - 1:
            return make(x, axis)
        # Until opset 12 all axes from `axis` on were one.
        flat = [b.solver.product(shape[:axis]), b.solver.product(shape[axis:])]
        return R.reshape(make(R.reshape(x, flat), 1), list(shape))

    return run


def _refuse_training(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    if len(inputs) > 2 and inputs[2] is not None and b.number(inputs[2], "training_mode"):
        raise UnsupportedOperator("it is in training mode; export the model with eval()")
    if len(node.outputs) > 1 and node.outputs[1]:
        ones = R.full(list(b.shape(inputs[0])), b.literal(True, "bool"))
        return inputs[0], ones
    return inputs[0]


CONVERTERS: dict[str, Converter] = {
    "PRelu": _prelu,
    "Dropout": _refuse_training,
    "Softmax": _softmax(R.nn.softmax),
    "LogSoftmax": _softmax(R.nn.log_softmax),
    "Relu": unary(lambda b, node, x: R.nn.relu(x)),
    "LeakyRelu": unary(lambda b, node, x: R.nn.leakyrelu(x, node.number("alpha", 0.01))),
    "Softsign": unary(lambda b, node, x: R.divide(x, R.add(R.abs(x), number(b, 1, x)))),
    "Softplus": unary(lambda b, node, x: softplus(b, x)),
    "Mish": unary(lambda b, node, x: R.multiply(x, R.tanh(softplus(b, x)))),
    "ThresholdedRelu": unary(
        lambda b, node, x: R.where(
            R.greater(x, number(b, node.number("alpha", 1.0), x)), x, number(b, 0, x)
        )
    ),
    "Elu": unary(_elu),
    "Celu": unary(_celu),
    "Selu": unary(_selu),
    "HardSigmoid": unary(_hard_sigmoid),
    "HardSwish": unary(_hard_swish),
    "Swish": _swish(1.0),
    "Gelu": unary(_gelu),
    "com.microsoft.Gelu": unary(lambda b, node, x: R.nn.gelu(x)),
    "com.microsoft.QuickGelu": _swish(1.702),
    "com.microsoft.BiasGelu": _bias_gelu(approximate=False),
    "com.microsoft.FastGelu": _bias_gelu(approximate=True),
}
