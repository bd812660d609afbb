"""Operators that rearrange, look up or reduce, on constants and on arrays of symbolic sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pocketformer.compiler.errors import BadModel
from pocketformer.compiler.frontends.onnx_broadcast import LARGEST_FOLDED_BYTES
from pocketformer.compiler.frontends.onnx_builder import Builder
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops import slices
from pocketformer.compiler.frontends.onnx_ops.fold_elementwise import Folder, small


def _matmul(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    left, right = arrays
    if left.size * right.size > 1 << 24 or not left.ndim or not right.ndim:
        return None
    return np.matmul(left, right)


def _transpose(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    axes = node.integers("perm", range(arrays[0].ndim)[::-1])
    return np.transpose(arrays[0], axes)


def _concat(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    present = [array for array in arrays if array is not None]
    if not small(sum(array.nbytes for array in present), *present):
        return None
    if any(array.dtype == object for array in present):
        present = [array.astype(object) for array in present]
    return np.concatenate(present, axis=node.integer("axis"))


def _gather(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    data, indices = arrays
    if indices.dtype == object:
        return None
    axis = b.axis(node.integer("axis", 0), data.ndim)
    size = data.shape[axis]
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise BadModel(f"an index is outside an axis of {size}")
    if not small(data.nbytes / max(size, 1) * indices.size, data, indices):
        return None
    result = np.take(data, indices, axis=axis)
    return result if data.dtype == object else np.asarray(result)


def _slice(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    data = arrays[0]
    cuts = slices.read_slices(b, node, data.shape, arrays[1:])
    if any(not isinstance(end, int) for cut in cuts for end in (cut.start, cut.length)):
        return None
    index = [slice(None)] * data.ndim
    for cut in cuts:
        stop = cut.start + cut.length * cut.step
        index[cut.axis] = slice(cut.start, None if stop < 0 else stop, cut.step)
    return data[tuple(index)] if all(cut.length for cut in cuts) else _empty(data, cuts)


def _empty(data: np.ndarray, cuts: list[slices.Cut]) -> np.ndarray:
    shape = list(data.shape)
    for cut in cuts:
        shape[cut.axis] = cut.length
    return np.empty(shape, data.dtype)


def _range(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    if any(array.dtype == object or array.size != 1 for array in arrays):
        return None
    start, limit, delta = (array.reshape(-1)[0].item() for array in arrays)
    if not delta:
        raise BadModel("its step is zero")
    if not abs((limit - start) / delta) * 8 <= LARGEST_FOLDED_BYTES:
        return None
    return np.arange(start, limit, delta, dtype=arrays[0].dtype)


def _reduce(function: Callable[..., Any]) -> Folder:
    def run(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
        data = arrays[0]
        axes = reduced_axes(b, node, data.ndim, arrays[1] if len(arrays) > 1 else None)
        if axes is None:
            return data
        result = function(data, axis=tuple(axes), keepdims=bool(node.integer("keepdims", 1)))
        return result if data.dtype == object else np.asarray(result, dtype=data.dtype)

    return run


def reduced_axes(
    b: Builder, node: Node, rank: int, given: np.ndarray | None
) -> list[int] | None:
    """The axes of a Reduce operator, which moved from attribute to input; None: none at all."""
    axes = node.integers("axes", []) if given is None else b.sizes(given, "axes")
    if not axes:
        return None if node.integer("noop_with_empty_axes", 0) else list(range(rank))
    return sorted({b.axis(axis, rank) for axis in axes})


def _cumsum(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    data, axis = arrays[0], int(arrays[1].reshape(-1)[0])
    b.axis(axis, data.ndim)
    data = np.flip(data, axis) if node.integer("reverse", 0) else data
    result = np.cumsum(data, axis=axis, dtype=data.dtype)
    if node.integer("exclusive", 0):
        result = result - data
    return np.flip(result, axis) if node.integer("reverse", 0) else result


def _trilu(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    offset = 0 if len(arrays) < 2 or arrays[1] is None else int(arrays[1].reshape(-1)[0])
    return (np.triu if node.integer("upper", 1) else np.tril)(arrays[0], offset)


ON_SIZES: dict[str, Folder] = {
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Range": _range,
    "ReduceSum": _reduce(np.sum),
    "ReduceProd": _reduce(np.prod),
}
ON_NUMBERS: dict[str, Folder] = {
    "MatMul": _matmul,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceMean": _reduce(np.mean),
    "CumSum": _cumsum,
    "Trilu": _trilu,
}
