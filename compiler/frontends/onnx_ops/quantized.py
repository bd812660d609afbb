"""Quantised tensors: relax.quantize and relax.dequantize around float32 operators.

fuse_quantized.py makes integer kernels of them. The formulas are those of the ONNX standard, which
rounds to nearest, ties to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_file import dtype_of
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops.fold_elementwise import Folder
from pocketformer.compiler.frontends.onnx_ops.packed_weights import (
    Blocks,
    in_blocks,
    in_floats,
    uneven,
)
from pocketformer.compiler.frontends.onnx_ops.quantized_numbers import (
    Grid,
    float_of,
    int8_weight,
    read_grid,
)
from pocketformer.compiler.frontends.onnx_values import Value

UINT8_STEPS = 255.0


def quantized(b: Builder, x: Value, grid: Grid) -> relax.Expr:
    """round(x / scale) + zero: the nearest integer of the grid's dtype."""
    scale, zero = b.tensor(grid.scale), b.tensor(grid.zero)
    return b.emit(R.quantize(b.tensor(x), scale, zero, grid.axis, grid.dtype))


def dequantized(b: Builder, x: Value, grid: Grid) -> relax.Expr:
    """(x - zero) * scale."""
    if isinstance(x, np.ndarray):
        x, grid = int8_weight(b, x, grid)
    scale, zero = b.tensor(grid.scale), b.tensor(grid.zero)
    return b.emit(R.dequantize(b.tensor(x), scale, zero, grid.axis, b.dtype(grid.scale)))


def own_range(b: Builder, x: relax.Expr) -> Grid:
    """255 steps of uint8 from the least number in `x`, or 0, to the greatest, or 0."""
    zero, steps = b.literal(0.0, "float32"), b.literal(UINT8_STEPS, "float32")
    low, high = b.emit(R.minimum(R.min(x), zero)), b.emit(R.maximum(R.max(x), zero))
    width = b.emit(R.subtract(high, low))
    flat = R.equal(width, zero)
    scale = b.emit(R.where(flat, b.literal(1.0, "float32"), R.divide(width, steps)))
    place = R.minimum(R.round(R.divide(R.negative(low), scale)), steps)
    return Grid(scale, b.emit(R.astype(place, "uint8")), "uint8")


def grid_of(b: Builder, node: Node, inputs: list[Value | None], quantizes: bool) -> Grid:
    """The grid of a QuantizeLinear or DequantizeLinear (x, scale, zero)."""
    if node.integer("block_size", 0):
        raise UnsupportedOperator("it has a scale for each block of an axis")
    x, scale, zero = ([*inputs, None])[:3]
    axis = node.integer("axis", 1)
    if x is not None and scale is not None and b.shape(scale) not in ((), (1,)):
        axis = b.axis(axis, b.rank(x))
    if not quantizes:
        return read_grid(b, x, scale, zero, axis)
    asked = node.integer("output_dtype", 0)
    wanted = str(dtype_of(asked, "its result")) if asked else "uint8"
    return read_grid(b, x, scale, zero, axis, wanted if zero is None else b.dtype(zero))


def _quantize_linear(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    return quantized(b, inputs[0], grid_of(b, node, inputs, quantizes=True))


def _dequantize_linear(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    if node.integer("block_size", 0):
        return _dequantized_blocks(b, node, inputs)
    return dequantized(b, inputs[0], grid_of(b, node, inputs, quantizes=False))


def _dequantized_blocks(b: Builder, node: Node, inputs: list[Any]) -> relax.Expr:
    """A weight [k, n] with scales and zeros [k / block, n]; without zeros it stays in 4 bits."""
    weight, scale, zero = ([*inputs, None])[:3]
    block = node.integer("block_size")
    whole, scales = b.constant(weight, "weight"), b.constant(scale, "scale")
    zeros = np.zeros(scales.shape, whole.dtype) if zero is None else b.constant(zero, "zero point")
    if whole.ndim != 2 or b.axis(node.integer("axis", 1), 2) or scales.dtype != np.float32:
        raise UnsupportedOperator("its blocks are not those of a float32 matrix along axis 0")
    k, n = whole.shape
    if block < 1 or scales.shape != (-(-k // block), n) or zeros.shape != scales.shape:
        raise BadModel(f"{scales.shape} scales do not fit {k} x {n} in blocks of {block}")
    blocks = Blocks(whole.T.astype(np.int16), zeros.T.astype(np.float32), scales.T, block)
    if k % block:
        return in_floats(b, blocks, whole, uneven(blocks))
    exact = blocks.without_zeros()
    if exact is None:
        return in_floats(b, blocks, whole, "its integers less their zero points are not of 4 bits")
    return in_blocks(b, exact, whole)


def _dynamic(b: Builder, node: Node, inputs: list[Any]) -> Any:
    x = b.tensor(inputs[0])
    if b.dtype(x) != "float32":
        raise BadModel(f"it quantises {b.dtype(x)}, not float32")
    grid = own_range(b, x)
    return quantized(b, x, grid), grid.scale, grid.zero


def _fold_quantize(b: Builder, node: Node, arrays: list[Any]) -> np.ndarray | None:
    grid = grid_of(b, node, list(arrays), quantizes=True)
    scale, zero = np.asarray(grid.scale, np.float32), np.asarray(grid.zero, np.float32)
    if scale.ndim:
        shape = [-1 if axis == grid.axis else 1 for axis in range(arrays[0].ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    limits = np.iinfo(grid.dtype)
    steps = np.rint(arrays[0].astype(np.float32) / scale) + zero
    return np.asarray(np.clip(steps, limits.min, limits.max), grid.dtype)


def _fold_dequantize(b: Builder, node: Node, arrays: list[Any]) -> np.ndarray | None:
    """Only of numbers and vectors: a matrix stays in integers."""
    if node.integer("block_size", 0):
        return None
    if arrays[0].ndim > 1 and arrays[0].size > 1:
        return None
    return float_of(arrays[0], grid_of(b, node, list(arrays), quantizes=False))


FOLDERS: dict[str, Folder] = {
    "QuantizeLinear": _fold_quantize,
    "DequantizeLinear": _fold_dequantize,
}
CONVERTERS: dict[str, Converter] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    "com.microsoft.QuantizeLinear": _quantize_linear,
    "com.microsoft.DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic,
}
