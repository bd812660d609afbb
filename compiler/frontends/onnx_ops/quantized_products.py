"""Products of integers: exact sums in int32, or products of dequantised tensors.

Those give the same but for float32's rounding, and become integer products in fuse_quantized.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import broadcast
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops.elementwise import number
from pocketformer.compiler.frontends.onnx_ops.quantized import dequantized, own_range, quantized
from pocketformer.compiler.frontends.onnx_ops.quantized_numbers import (
    Grid,
    int8_weight,
    read_grid,
)
from pocketformer.compiler.frontends.onnx_ops.reduction import matmul
from pocketformer.compiler.frontends.onnx_values import Value

ROWS, COLUMNS = -2, -1    # along which the scales of a product's sides may lie
BYTES = ("int8", "uint8")


def side(b: Builder, given: list[Value | None], axis: int = COLUMNS) -> relax.Expr:
    """The tensor that (integers, scale, zero?) stand for."""
    x, scale, zero = ([*given, None])[:3]
    grid = read_grid(b, x, scale, zero, axis)
    return dequantized(b, x, grid)


def _matmul_integer(b: Builder, node: Node, inputs: list[Value | None]) -> relax.Expr:
    a, weight, a_zero, weight_zero = ([*inputs, None, None])[:4]
    one = np.ones((), np.float32)
    sides = []
    for x, zero, axis in ((a, a_zero, ROWS), (weight, weight_zero, COLUMNS)):
        if x is None or b.dtype(x) not in BYTES:
            raise BadModel("it multiplies something else than int8 and uint8")
        sides.append(_centered(b, x, read_grid(b, x, one, zero, axis)))
    matmul(b, *sides)    # for its checks
    return R.matmul(*sides, out_dtype="int32")


def _centered(b: Builder, x: Value, grid: Grid) -> relax.Expr:
    """x - zero in int32."""
    if isinstance(x, np.ndarray):
        x, grid = int8_weight(b, x, grid)
    wide = b.emit(R.astype(b.tensor(x), "int32"))
    if isinstance(grid.zero, np.ndarray) and not grid.zero.any():
        return wide
    zero = b.emit(R.astype(b.tensor(grid.zero), "int32"))
    if b.shape(zero) and grid.axis != b.rank(wide) - 1:
        zero = b.tensor(b.reshape(zero, [*b.shape(zero), 1]))
    return b.emit(R.subtract(wide, zero))


def _qlinear_matmul(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    left, right = side(b, inputs[0:3], ROWS), side(b, inputs[3:6])
    product = b.emit(matmul(b, left, right))
    return quantized(b, product, read_grid(b, product, inputs[6], inputs[7], dtype=b.dtype(
        inputs[7])))


def _matmul_to_float(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    """com.microsoft MatMulIntegerToFloat."""
    a, weight, a_scale, weight_scale, a_zero, weight_zero, bias = ([*inputs, *[None] * 3])[:7]
    left = side(b, [a, a_scale, a_zero], ROWS)
    return _sum(b, matmul(b, left, side(b, [weight, weight_scale, weight_zero])), bias)


def _dynamic_matmul(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    """com.microsoft DynamicQuantizeMatMul."""
    a, weight, scale, zero, bias = ([*inputs, *[None] * 2])[:5]
    x = b.tensor(a)
    grid = own_range(b, x)
    left = dequantized(b, quantized(b, x, grid), grid)
    return _sum(b, matmul(b, left, side(b, [weight, scale, zero])), bias)


def _sum(b: Builder, product: relax.Expr, bias: Value | None) -> relax.Expr:
    return product if bias is None else R.add(*broadcast(b, b.emit(product), bias))


def _qgemm(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    """com.microsoft QGemm: its bias is int32, in steps of alpha times both scales."""
    *given, bias, scale, zero = ([*inputs, *[None] * 3])[:9]
    if node.integer("transA", 0):
        raise UnsupportedOperator("its left side is transposed")
    turned = bool(node.integer("transB", 0))
    a_scale, weight_scale = given[1], given[4]
    left = side(b, [given[0], a_scale, given[2]], ROWS)
    right = side(b, given[3:], 0 if turned else COLUMNS)
    right = b.emit(R.permute_dims(right, [1, 0])) if turned else right
    alpha = np.float32(node.number("alpha", 1.0))
    result = b.emit(matmul(b, left, right))
    if alpha != 1.0:
        result = b.emit(R.multiply(result, number(b, alpha, result)))
    if bias is not None:
        step = b.constant(a_scale, "scale") * b.constant(weight_scale, "scale") * alpha
        values = (b.constant(bias, "bias") * step).astype(np.float32)
        result = b.emit(R.add(*broadcast(b, result, values)))
    if scale is None:
        return result
    wanted = b.dtype(given[0]) if zero is None else b.dtype(zero)
    return quantized(b, result, read_grid(b, result, scale, zero, dtype=wanted))


CONVERTERS: dict[str, Converter] = {
    "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
    "com.microsoft.MatMulIntegerToFloat": _matmul_to_float,
    "com.microsoft.DynamicQuantizeMatMul": _dynamic_matmul,
    "com.microsoft.QGemm": _qgemm,
}
