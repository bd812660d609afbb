"""Operators that work on every element on its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import relax
from tvm.relax import op as R

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


def unary(make: Unary) -> Converter:
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
    if scalar and b.rank(exponent) <= b.rank(inputs[0]):
        simple = _known_power(b, b.tensor(inputs[0]), float(b.number(exponent, "exponent")))
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


def _is_inf(b: Builder, node: Node, x: relax.Expr) -> relax.Expr:
    if not node.integer("detect_negative", 1):
        return R.equal(x, number(b, math.inf, x))
    if not node.integer("detect_positive", 1):
        return R.equal(x, number(b, -math.inf, x))
    return R.isinf(x)


CONVERTERS: dict[str, Converter] = {
    **{
        name: _simple(make)
        for name, make in {
            "Abs": R.abs, "Acos": R.acos, "Acosh": R.acosh, "Asin": R.asin, "Asinh": R.asinh,
            "Atan": R.atan, "Atanh": R.atanh, "BitwiseNot": R.bitwise_not, "Ceil": R.ceil,
            "Cos": R.cos, "Cosh": R.cosh, "Erf": R.erf, "Exp": R.exp, "Floor": R.floor,
            "IsNaN": R.isnan, "Log": R.log, "Neg": R.negative, "Not": R.logical_not,
            "Round": R.round, "Sigmoid": R.sigmoid, "Sign": R.sign,
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
    "Reciprocal": unary(lambda b, node, x: R.divide(number(b, 1, x), x)),
    "IsInf": unary(_is_inf),
}    # fmt: skip
