"""Operators that only rearrange: Reshape, Transpose, Expand, Concat and their family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel
from pocketformer.compiler.frontends.onnx_broadcast import (
    LARGEST_FOLDED_BYTES,
    broadcast_shape,
    broadcast_to,
    differ,
    is_one,
)
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import Size, Symbolic, Value, object_array


def _shape(b: Builder, node: Node, inputs: list[Value]) -> Value:
    shape = list(b.shape(inputs[0]))
    shape = shape[node.integer("start", 0) : node.integer("end", len(shape))]
    return symbolic(shape, (len(shape),))


def symbolic(sizes: Sequence[Size], shape: tuple[int, ...]) -> Value:
    """Sizes as an int64 value: plain numbers where all are known."""
    if all(isinstance(size, int) for size in sizes):
        return np.array(sizes, dtype=np.int64).reshape(shape)
    return Symbolic(object_array(list(sizes), shape), "int64")


def _size(b: Builder, node: Node, inputs: list[Value]) -> Value:
    return symbolic([b.solver.product(b.shape(inputs[0]))], ())


def _identity(b: Builder, node: Node, inputs: list[Value]) -> Value:
    return inputs[0]


def _reshape(b: Builder, node: Node, inputs: list[Value]) -> Any:
    data, given = inputs[0], b.shape(inputs[0])
    wanted = b.sizes(inputs[1], "shape")
    if not node.integer("allowzero", 0):
        if any(size == 0 and index >= len(given) for index, size in enumerate(wanted)
               if isinstance(size, int)):    # fmt: skip
            raise BadModel(f"it copies an axis that a tensor of rank {len(given)} does not have")
        wanted = [
            given[index] if isinstance(size, int) and size == 0 else size
            for index, size in enumerate(wanted)
        ]
    return b.reshape(data, fill_unknown(b, given, wanted))


def fill_unknown(b: Builder, given: Sequence[Size], wanted: Sequence[Size]) -> list[Size]:
    """`wanted` with -1 replaced by what is left of the elements of a tensor of shape `given`."""
    unknown = [i for i, size in enumerate(wanted) if isinstance(size, int) and size == -1]
    known = [size for i, size in enumerate(wanted) if i not in unknown]
    text = f"the shape {tuple(given)} to {tuple(wanted)}"
    if len(unknown) > 1 or any(isinstance(size, int) and size < 0 for size in known):
        raise BadModel(f"it cannot reshape {text}")
    total, product = b.solver.product(given), b.solver.product(known)
    result = list(wanted)
    if unknown:
        if isinstance(product, int) and product == 0:
            raise BadModel(f"it cannot reshape {text}")
        result[unknown[0]] = b.solver.simplify(total // product)
        product = b.solver.product(result)
    if isinstance(total, int) and isinstance(product, int) and total != product:
        raise BadModel(f"it cannot reshape {text}")
    # A division that leaves a rest at some size would drop numbers without a word.
    if unknown and not b.solver.equal(total, product):
        raise BadModel(f"it cannot reshape {text} at every size; fix one of the dimensions")
    b.check_shape(result)
    return result


def _flatten(b: Builder, node: Node, inputs: list[Value]) -> Any:
    shape, axis = b.shape(inputs[0]), node.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise BadModel(f"axis {axis} is outside a tensor of rank {len(shape)}")
    axis = axis + len(shape) if axis < 0 else axis
    return b.reshape(inputs[0], [b.solver.product(shape[:axis]), b.solver.product(shape[axis:])])


def _axes(b: Builder, node: Node, inputs: list[Value], rank: int) -> list[int] | None:
    """The axes attribute (before opset 13) or input, non-negative; None where there is neither."""
    if len(inputs) > 1 and inputs[1] is not None:
        axes = b.sizes(inputs[1], "axes")
    elif "axes" in node.attributes:
        axes = list(node.integers("axes"))
    else:
        return None
    axes = [b.axis(axis, rank) for axis in axes]
    if len(set(axes)) != len(axes):
        raise BadModel(f"its axes {axes} repeat one")
    return axes


def _squeeze(b: Builder, node: Node, inputs: list[Value]) -> Any:
    shape = b.shape(inputs[0])
    axes = _axes(b, node, inputs, len(shape))
    if axes is None:
        axes = [i for i, size in enumerate(shape) if is_one(size)]
    for axis in axes:
        if differ(shape[axis], 1):
            raise BadModel(f"it removes axis {axis}, whose size is {shape[axis]} and not 1")
    return b.reshape(inputs[0], [size for i, size in enumerate(shape) if i not in axes])


def _unsqueeze(b: Builder, node: Node, inputs: list[Value]) -> Any:
    shape, data = list(b.shape(inputs[0])), inputs[0]
    count = len(_axes(b, node, inputs, 64) or [])
    axes = _axes(b, node, inputs, len(shape) + count)
    if not axes:
        raise BadModel("its axes are missing")
    for axis in sorted(axes):
        shape.insert(axis, 1)
    b.check_shape(shape)
    if isinstance(data, (np.ndarray, Symbolic)):
        return b.reshape(data, shape)
    return R.expand_dims(data, axes)


def _transpose(b: Builder, node: Node, inputs: list[Value]) -> Any:
    rank = b.rank(inputs[0])
    axes = node.integers("perm", range(rank)[::-1])
    if sorted(axes) != list(range(rank)):
        raise BadModel(f"perm {axes} is no order of {rank} axes")
    return inputs[0] if axes == sorted(axes) else R.permute_dims(b.tensor(inputs[0]), axes)


def _expand(b: Builder, node: Node, inputs: list[Value]) -> Any:
    shape = broadcast_shape([b.shape(inputs[0]), b.sizes(inputs[1], "shape")])
    b.check_shape(shape)
    return broadcast_to(b, inputs[0], shape)


def _tile(b: Builder, node: Node, inputs: list[Value]) -> Any:
    data, shape = inputs[0], b.shape(inputs[0])
    repeats = b.sizes(inputs[1], "repeats")
    if len(repeats) != len(shape):
        raise BadModel(f"it has {len(repeats)} repeats for a tensor of rank {len(shape)}")
    result = [b.solver.simplify(size * times) for size, times in zip(shape, repeats, strict=True)]
    b.check_shape(result)
    if isinstance(data, np.ndarray) and all(isinstance(size, int) for size in result):
        small = math.prod(result) * data.itemsize <= LARGEST_FOLDED_BYTES
        if small and all(isinstance(times, int) for times in repeats):
            return np.tile(data, repeats)
    # Repeating an axis is broadcasting a new axis in front of it, which symbolic sizes allow too.
    inner: list[Size] = []
    wide: list[Size] = []
    for size, times in zip(shape, repeats, strict=True):
        if is_one(size) or is_one(times):
            inner.append(size)
            wide.append(times if is_one(size) else size)
        else:
            inner += [1, size]
            wide += [times, size]
    return b.reshape(broadcast_to(b, b.reshape(b.tensor(data), inner), wide), result)


def _concat(b: Builder, node: Node, inputs: list[Value]) -> Any:
    axis = b.axis(node.integer("axis"), b.rank(inputs[0]))
    parts = [part for part in inputs if not _is_empty(b, part)]
    if len(parts) <= 1:
        return parts[0] if parts else inputs[0]
    first = list(b.shape(parts[0]))
    tensors = []
    for part in parts:
        shape = list(b.shape(part))
        if len(shape) != len(first):
            raise BadModel(f"it joins tensors of rank {len(first)} and {len(shape)}")
        wanted = [*first[:axis], shape[axis], *first[axis + 1 :]]
        if any(map(differ, shape, wanted)):
            raise BadModel(f"it joins the shapes {tuple(first)} and {tuple(shape)}")
        b.require(shape, wanted)
        tensors.append(b.tensor(part))
    return R.concat(tensors, axis)


def _is_empty(b: Builder, value: Value) -> bool:
    return any(isinstance(size, int) and size == 0 for size in b.shape(value))


CONVERTERS: dict[str, Converter] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _identity,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
}
