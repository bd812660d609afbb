"""Operators that make a tensor of nothing but sizes and numbers, or cut triangles out of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import LARGEST_FOLDED_BYTES
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_file import dtype_of
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import Value


def _constant_of_shape(b: Builder, node: Node, inputs: list[Value]) -> Any:
    shape = b.sizes(inputs[0], "shape")
    b.check_shape(shape)
    tensor = node.tensor("value")
    fill = np.zeros(1, np.float32) if tensor is None else b.source.array(tensor)
    if fill.size != 1:
        raise BadModel(f"its value has {fill.size} elements and not one")
    fill = fill.reshape(())
    known = all(isinstance(size, int) for size in shape)
    if known and math.prod(shape) * fill.itemsize <= LARGEST_FOLDED_BYTES:
        return np.full(shape, fill, fill.dtype)
    return R.full(shape, b.literal(fill))


def _range(b: Builder, node: Node, inputs: list[Value]) -> Any:
    dtype = b.dtype(inputs[0])
    start, limit, step = (b.sizes(value, "bounds") for value in inputs)
    if len(start) != 1 or len(limit) != 1 or len(step) != 1:
        raise BadModel("its bounds are no scalars")
    if not isinstance(step[0], int) or step[0] == 0 or dtype not in ("int32", "int64"):
        raise UnsupportedOperator("it counts in symbolic or broken steps")
    return R.arange(start[0], limit[0], step[0], dtype)


def _trilu(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    x = b.tensor(inputs[0])
    if b.rank(x) < 2:
        raise BadModel(f"its input has rank {b.rank(x)}, it needs at least 2")
    offset = 0 if len(inputs) < 2 or inputs[1] is None else b.sizes(inputs[1], "k")[0]
    if isinstance(offset, int):
        offset = tirx.const(max(-(2**31), min(offset, 2**31 - 1)), "int64")
    return (R.triu if node.integer("upper", 1) else R.tril)(x, offset)


def _eye_like(b: Builder, node: Node, inputs: list[Value]) -> Any:
    if b.rank(inputs[0]) != 2:
        raise BadModel(f"its input has rank {b.rank(inputs[0])}, it needs 2")
    rows, columns = b.shape(inputs[0])
    code = node.integer("dtype", 0)
    dtype = str(dtype_of(code, "its result")) if code else b.dtype(inputs[0])
    return R.eye(rows, columns, node.integer("k", 0), dtype)


def _constant(b: Builder, node: Node, inputs: list[Value]) -> Any:
    if (tensor := node.tensor("value")) is not None:
        return b.source.array(tensor)
    readers: dict[str, Callable[[], np.ndarray]] = {
        "value_int": lambda: np.array(node.integer("value_int"), np.int64),
        "value_ints": lambda: np.array(node.integers("value_ints"), np.int64),
        "value_float": lambda: np.array(node.number("value_float"), np.float32),
        "value_floats": lambda: np.array(node.numbers("value_floats"), np.float32),
    }
    for key, read in readers.items():
        if key in node.attributes:
            return read()
    raise UnsupportedOperator("it holds a sparse tensor or text")


CONVERTERS: dict[str, Converter] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Trilu": _trilu,
    "EyeLike": _eye_like,
}
