"""Operators that work on every element on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import broadcast
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_file import dtype_of
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import Value

Unary = Callable[[Builder, Node, relax.Expr], relax.Expr]

FLOATS = ("float32", "float64", "float16", "bfloat16")
LARGEST_UNROLLED_POWER = 8    # x**8 is three or four multiplications, and exact for integers


def number(b: Builder, value: float, like: relax.Expr) -> relax.Expr:
    """A scalar of the dtype of `like`."""
    return b.literal(value, str(like.ty.dtype))


def _unary(make: Unary) -> Converter:
    return lambda b, node, inputs: make(b, node, b.tensor(inputs[0]))


def _simple(make: Callable[[relax.Expr], relax.Expr]) -> Converter:
    return lambda b, node, inputs: make(b.tensor(inputs[0]))


def _binary(make: Callable[..., relax.Expr]) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
        left, right = broadcast(b, inputs[0], inputs[1])
        return make(left, right)

    return run


def _variadic(make: Callable[..., relax.Expr], mean: bool = False) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
        total = b.tensor(inputs[0])
        for value in inputs[1:]:
            left, right = broadcast(b, b.emit(total), value)
            total = make(left, right)
        count = b.literal(len(inputs), b.dtype(inputs[0]))
        return R.divide(total, count) if mean else total

    return run


def _equal(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    left, right = broadcast(b, inputs[0], inputs[1])
    if b.dtype(left) == "bool":    # TVM would compare them as floats
        return R.logical_not(R.logical_xor(left, right))
    return R.equal(left, right)


def _mod(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    left, right = broadcast(b, inputs[0], inputs[1])
    return R.mod(left, right) if node.integer("fmod", 0) else R.floor_mod(left, right)


def _shift(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    left, right = broadcast(b, inputs[0], inputs[1])
    to_left = node.text("direction") == "LEFT"
    return R.left_shift(left, right) if to_left else R.right_shift(left, right)


def _power(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    exponent = inputs[1]
    scalar = isinstance(exponent, np.ndarray) and exponent.size == 1
    if scalar and exponent.ndim <= b.rank(inputs[0]):
        simple = _known_power(b, b.tensor(inputs[0]), float(exponent.reshape(-1)[0]))
        if simple is not None:
            return simple
    base, raised = broadcast(b, inputs[0], inputs[1])
    dtype = str(base.ty.dtype)
    computed = dtype if dtype in FLOATS else "float64"
    result = R.power(_as(base, computed), _as(raised, computed))
    return result if computed == dtype else R.astype(result, dtype)


def _as(tensor: relax.Expr, dtype: str) -> relax.Expr:
    return tensor if str(tensor.ty.dtype) == dtype else R.astype(tensor, dtype)


def _known_power(b: Builder, base: relax.Expr, exponent: float) -> relax.Expr | None:
    if exponent in (0.5, -0.5) and str(base.ty.dtype) in FLOATS:
        return R.sqrt(base) if exponent > 0 else R.rsqrt(base)
    if exponent not in range(1, LARGEST_UNROLLED_POWER + 1):
        return None
    result, square, left = None, base, int(exponent)
    while left:
        if left & 1:
            result = square if result is None else b.emit(R.multiply(result, square))
        left >>= 1
        square = b.emit(R.multiply(square, square)) if left else square
    return result


def _cast(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    return cast(b, b.tensor(inputs[0]), str(dtype_of(node.integer("to"), "its result")))


def _cast_like(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    return cast(b, b.tensor(inputs[0]), b.dtype(inputs[1]))


def cast(b: Builder, tensor: relax.Expr, dtype: str) -> relax.Expr:
    given = str(tensor.ty.dtype)
    if given == dtype:
        return tensor
    if dtype == "bool":
        return R.not_equal(tensor, number(b, 0, tensor))
    return R.astype(tensor, dtype)


def _clip(b: Builder, node: Node, inputs: list[Value | None]) -> relax.Expr:
    tensor, low, high = ([*inputs, None, None])[:3]
    result = b.tensor(tensor)
    for bound, make in ((low, R.maximum), (high, R.minimum)):
        if bound is not None:
            result = b.emit(make(result, b.tensor(b.reshape(bound, []))))
    return result


def _where(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    condition, x, y = broadcast(b, *inputs)
    return R.where(condition, x, y)


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


def _swish(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    alpha = node.number("alpha", 1.0)
    if alpha == 1.0:
        return R.nn.silu(x)
    return R.multiply(x, R.sigmoid(R.multiply(x, number(b, alpha, x))))


def _quick_gelu(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    alpha = node.number("alpha", 1.702)
    return R.multiply(x, R.sigmoid(R.multiply(x, number(b, alpha, x))))


def _bias_gelu(approximate: bool) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value | None]) -> relax.Expr:
        x = b.tensor(inputs[0])
        if len(inputs) > 1 and inputs[1] is not None:
            x = b.emit(R.add(*broadcast(b, x, inputs[1])))
        return R.nn.gelu_tanh(x) if approximate else R.nn.gelu(x)

    return run


def _is_inf(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    if not node.integer("detect_negative", 1):
        return R.equal(x, number(b, math.inf, x))
    if not node.integer("detect_positive", 1):
        return R.equal(x, number(b, -math.inf, x))
    return R.isinf(x)


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
    **{
        name: _simple(make)
        for name, make in {
            "Abs": R.abs, "Acos": R.acos, "Acosh": R.acosh, "Asin": R.asin, "Asinh": R.asinh,
            "Atan": R.atan, "Atanh": R.atanh, "BitwiseNot": R.bitwise_not, "Ceil": R.ceil,
            "Cos": R.cos, "Cosh": R.cosh, "Erf": R.erf, "Exp": R.exp, "Floor": R.floor,
            "IsNaN": R.isnan, "Log": R.log, "Neg": R.negative, "Not": R.logical_not,
            "Relu": R.nn.relu, "Round": R.round, "Sigmoid": R.sigmoid, "Sign": R.sign,
            "Sin": R.sin, "Sinh": R.sinh, "Sqrt": R.sqrt, "Tan": R.tan, "Tanh": R.tanh,
        }.items()
    },
    **{
        name: _binary(make)
        for name, make in {
            "Add": R.add, "Sub": R.subtract, "Mul": R.multiply, "Div": R.divide,
            "And": R.logical_and, "Or": R.logical_or, "Xor": R.logical_xor,
            "Less": R.less, "LessOrEqual": R.less_equal,
            "Greater": R.greater, "GreaterOrEqual": R.greater_equal,
            "BitwiseAnd": R.bitwise_and, "BitwiseOr": R.bitwise_or, "BitwiseXor": R.bitwise_xor,
        }.items()
    },
    "Equal": _equal,
    "Min": _variadic(R.minimum),
    "Max": _variadic(R.maximum),
    "Sum": _variadic(R.add),
    "Mean": _variadic(R.add, mean=True),
    "Mod": _mod,
    "BitShift": _shift,
    "Pow": _power,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Where": _where,
    "PRelu": _prelu,
    "Dropout": _refuse_training,
    "Softmax": _softmax(R.nn.softmax),
    "LogSoftmax": _softmax(R.nn.log_softmax),
    "Reciprocal": _unary(lambda b, node, x: R.divide(number(b, 1, x), x)),
    "LeakyRelu": _unary(lambda b, node, x: R.nn.leakyrelu(x, node.number("alpha", 0.01))),
    "Softsign": _unary(lambda b, node, x: R.divide(x, R.add(R.abs(x), number(b, 1, x)))),
    "Softplus": _unary(lambda b, node, x: softplus(b, x)),
    "Mish": _unary(lambda b, node, x: R.multiply(x, R.tanh(softplus(b, x)))),
    "ThresholdedRelu": _unary(
        lambda b, node, x: R.where(
            R.greater(x, number(b, node.number("alpha", 1.0), x)), x, number(b, 0, x)
        )
    ),
    "IsInf": _unary(_is_inf),
    "Elu": _unary(_elu),
    "Celu": _unary(_celu),
    "Selu": _unary(_selu),
    "HardSigmoid": _unary(_hard_sigmoid),
    "HardSwish": _unary(_hard_swish),
    "Swish": _unary(_swish),
    "Gelu": _unary(_gelu),
    "com.microsoft.Gelu": _unary(lambda b, node, x: R.nn.gelu(x)),
    "com.microsoft.QuickGelu": _unary(_quick_gelu),
    "com.microsoft.BiasGelu": _bias_gelu(approximate=False),
    "com.microsoft.FastGelu": _bias_gelu(approximate=True),
}    # fmt: skip
