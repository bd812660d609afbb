"""Which integers stand for which numbers: scales and zero points, and weights in their terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import differ
from pocketformer.compiler.frontends.onnx_builder import Builder
from pocketformer.compiler.frontends.onnx_values import Value

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")
FLOATS = ("float32", "float16")
MIDDLE = 128    # of uint8: what lies between it and int8


@dataclass(frozen=True, eq=False)
class Grid:
    """The integer q of `dtype` stands for (q - zero) * scale; both are scalars or along `axis`."""

    scale: Value
    zero: Value
    dtype: str
    axis: int = -1


def read_grid(
    b: Builder,
    x: Value | None,
    scale: Value | None,
    zero: Value | None,
    axis: int = -1,
    dtype: str | None = None,
) -> Grid:
    """The grid of `x`, or with a `dtype` of the integers that `x` is to become."""
    if x is None or scale is None:
        raise BadModel("a tensor or its scale is missing")
    integers = b.dtype(x) if dtype is None else dtype
    if integers not in INTEGERS:
        raise UnsupportedOperator(f"its integers are {integers}, not one of {', '.join(INTEGERS)}")
    if b.dtype(scale) not in FLOATS:
        raise UnsupportedOperator(f"its scale is {b.dtype(scale)}")
    if zero is None:
        zero = np.zeros((), integers)
    elif b.dtype(zero) != integers:
        raise BadModel(f"its zero point is {b.dtype(zero)}, its integers are {integers}")
    axis = axis % b.rank(x) if b.rank(x) else -1
    size = b.shape(x)[axis] if b.rank(x) else 1
    if isinstance(zero, np.ndarray) and not zero.any():
        zero = np.zeros((), integers)
    return Grid(_steps(b, scale, size), _steps(b, zero, size), integers, axis)


def _steps(b: Builder, value: Value, size: Any) -> Value:
    """A scale or zero point as a scalar, or as a vector of the `size` of an axis."""
    shape = b.shape(value)
    if all(one == 1 for one in shape):
        return b.reshape(value, [])
    if len(shape) != 1:
        raise UnsupportedOperator(f"its scale or zero point has the shape {tuple(shape)}")
    if differ(shape[0], size):
        raise BadModel(f"its scale or zero point has {shape[0]} elements for an axis of {size}")
    b.require(shape, [size])
    return value


def float_of(array: np.ndarray, grid: Grid) -> np.ndarray:
    """What a constant stands for, where its grid is constant too."""
    scale, zero = np.asarray(grid.scale), np.asarray(grid.zero, np.int64)
    shape = along(array.ndim, grid.axis)
    if scale.ndim:
        scale = scale.reshape(shape)
    whole = array.astype(np.int64) - (zero.reshape(shape) if zero.ndim else zero)
    return np.asarray((whole.astype(np.float32) * scale).astype(scale.dtype))


def int8_weight(b: Builder, array: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """A weight of uint8 or int8 as int8, without its zero point where what is left fits."""
    if grid.dtype not in ("int8", "uint8") or not isinstance(grid.zero, np.ndarray):
        return array, grid
    if grid.dtype == "int8" and not grid.zero.any():
        return array, grid
    zero = grid.zero.astype(np.int16)
    whole = array.astype(np.int16) - (
        zero.reshape(along(array.ndim, grid.axis)) if zero.ndim else zero)
    least, most = (whole.min(), whole.max()) if whole.size else (0, 0)
    if least >= -MIDDLE and most < MIDDLE:
        zero = np.zeros((), np.int16)
    elif grid.dtype == "uint8":
        whole, zero = array.astype(np.int16) - MIDDLE, np.asarray(zero - MIDDLE, np.int16)
    else:
        return array, grid
    weight = b.weights.name_after(np.ascontiguousarray(whole.astype(np.int8)), array)
    return weight, replace(grid, zero=zero.astype(np.int8), dtype="int8")


def along(rank: int, axis: int) -> Sequence[int]:
    """The shape of a vector along one axis of a tensor."""
    return [-1 if index == axis % rank else 1 for index in range(rank)]
