"""Operators that look up or place elements by index: Gather, Scatter, TopK and their family.

An index that comes with the input may be out of range. TVM's kernels would then read or write
foreign memory, so such indices wrap around the axis, which also gives negative ones their meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import differ
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops import slices
from pocketformer.compiler.frontends.onnx_ops.bounds import Interval, interval_of
from pocketformer.compiler.frontends.onnx_ops.shapes import symbolic
from pocketformer.compiler.frontends.onnx_values import Size, Symbolic, Value

REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "min": "min", "max": "max"}


def in_range(b: Builder, indices: Value, sizes: Sequence[Size]) -> relax.Expr:
    """Indices of 0 <= index < size; `sizes` is one for all, or one for each of the last axis."""
    if isinstance(indices, np.ndarray) and all(isinstance(size, int) for size in sizes):
        limit = np.array(sizes, dtype=np.int64)
        if indices.size and ((indices < -limit) | (indices >= limit)).any():
            raise BadModel(f"an index is outside the size {', '.join(map(str, sizes))}")
        return b.tensor(np.where(indices < 0, indices + limit, indices))
    tensor = b.tensor(indices)
    columns = b.columns.get(tensor, [interval_of(b, indices)] * len(sizes))
    if len(columns) == len(sizes) and all(map(partial(_is_index, b), columns, sizes)):
        return tensor
    if str(tensor.ty.dtype) != "int64":
        tensor = b.emit(R.astype(tensor, "int64"))
    shape = () if len(sizes) == 1 else (len(sizes),)
    return b.emit(R.floor_mod(tensor, b.tensor(symbolic(list(sizes), shape))))


def _is_index(b: Builder, interval: Interval | None, size: Size) -> bool:
    """Whether all of the interval are indices of an axis of `size`."""
    if interval is None:
        return False
    room = b.solver.simplify(size - 1 - interval.high)
    return all(b.solver.proves(b.solver.at_least(value, 0)) for value in (interval.low, room))


def _gather(b: Builder, node: Node, inputs: list[Value]) -> Any:
    data, indices = inputs
    shape = b.shape(data)
    axis = b.axis(node.integer("axis", 0), len(shape))
    if isinstance(indices, (np.ndarray, Symbolic)) and not b.rank(indices):
        index = slices.from_front(b, b.sizes(indices, "index")[0], shape[axis])
        if isinstance(index, int) and isinstance(shape[axis], int) and not 0 <= index < shape[axis]:
            raise BadModel(f"index {index} is outside an axis of {shape[axis]}")
        picked = slices.cut(b, b.tensor(data), [slices.Cut(axis, index, 1, 1)])
        return b.reshape(picked, [*shape[:axis], *shape[axis + 1 :]])
    return _look_up(b, data, indices, axis)


def _look_up(b: Builder, data: Value, indices: Value, axis: int) -> relax.Expr:
    """data[..., indices, ...], with the indices on `axis`."""
    shape = b.shape(data)
    if isinstance(indices, np.ndarray) and isinstance(shape[axis], int):
        return R.take(b.tensor(data), in_range(b, indices, [shape[axis]]), axis, mode="clip")
    known = interval_of(b, indices)
    if known is not None and isinstance(data, np.ndarray):
        # A table that is looked up by position: the sequence is not longer than that.
        b.solver.lower_ceiling(b.solver.simplify(known.high + 1), shape[axis])
    if _is_index(b, known, shape[axis]):
        return R.take(b.tensor(data), b.tensor(indices), axis, mode="clip")
    return R.take(b.tensor(data), b.tensor(indices), axis, mode="wrap")


def _gather_elements(b: Builder, node: Node, inputs: list[Value]) -> Any:
    data, indices = inputs
    axis = _common_axis(b, node, data, indices)
    kept = in_range(b, indices, [b.shape(data)[axis]])
    return R.gather_elements(b.tensor(data), kept, axis)


def _common_axis(b: Builder, node: Node, data: Value, indices: Value) -> int:
    """The node's axis. On the others the indices must not be longer than the data."""
    given, asked = b.shape(data), b.shape(indices)
    axis = b.axis(node.integer("axis", 0), len(given))
    if len(given) != len(asked):
        raise BadModel(f"its data has rank {len(given)} and its indices {len(asked)}")
    for index, (size, length) in enumerate(zip(given, asked, strict=True)):
        if index != axis and differ(size, length) and length > size:
            raise BadModel(f"its indices {tuple(asked)} reach outside its data {tuple(given)}")
    return axis


def _gather_nd(b: Builder, node: Node, inputs: list[Value]) -> Any:
    data, indices = inputs
    batch = node.integer("batch_dims", 0)
    sizes = _indexed_sizes(b, data, indices, batch)
    if len(sizes) == 1 and batch == 0:
        return _look_up(b, data, b.reshape(indices, b.shape(indices)[:-1]), 0)
    return R.gather_nd(b.tensor(data), in_range(b, indices, sizes), batch)


def _indexed_sizes(b: Builder, data: Value, indices: Value, batch: int) -> list[Size]:
    """The sizes of the axes that the last axis of `indices` counts in."""
    given, asked = b.shape(data), b.shape(indices)
    if not asked or not isinstance(asked[-1], int) or not 0 <= batch < len(asked):
        raise BadModel("its indices have no last axis of a known length")
    if not 1 <= asked[-1] <= len(given) - batch:
        raise BadModel(f"it has {asked[-1]} indices for a tensor of rank {len(given)}")
    return list(given[batch : batch + asked[-1]])


def _scatter_nd(b: Builder, node: Node, inputs: list[Value]) -> Any:
    data, indices, updates = inputs
    sizes = _indexed_sizes(b, data, indices, 0)
    expected = [*b.shape(indices)[:-1], *b.shape(data)[len(sizes) :]]
    _require_updates(b, b.shape(updates), expected)
    kept, moved = in_range(b, indices, sizes), b.tensor(updates)
    return R.scatter_nd(b.tensor(data), kept, moved, _reduction(node))


def _require_updates(b: Builder, given: Sequence[Size], expected: Sequence[Size]) -> None:
    if len(given) != len(expected) or any(map(differ, given, expected)):
        raise BadModel(f"its updates have the shape {tuple(given)} and not {tuple(expected)}")
    b.require(given, expected)


def _scatter_elements(b: Builder, node: Node, inputs: list[Value]) -> Any:
    data, indices, updates = inputs
    axis = _common_axis(b, node, data, indices)
    _require_updates(b, b.shape(updates), b.shape(indices))
    kept, moved = in_range(b, indices, [b.shape(data)[axis]]), b.tensor(updates)
    return R.scatter_elements(b.tensor(data), kept, moved, axis, _reduction(node))


def _reduction(node: Node) -> str:
    word = node.text("reduction", "none")
    if word not in REDUCTIONS:
        raise BadModel(f"it has no reduction {word!r}")
    return REDUCTIONS[word]


def _top_k(b: Builder, node: Node, inputs: list[Value]) -> Any:
    x = b.tensor(inputs[0])
    axis = b.axis(node.integer("axis", -1), b.rank(x))
    count, size = int(b.number(inputs[1], "k")), b.shape(x)[axis]
    if count < 1 or (isinstance(size, int) and count > size):
        raise BadModel(f"it takes the top {count} of {size}")
    both = b.emit(R.topk(x, count, axis, "both", bool(node.integer("largest", 1)), "int64"))
    return relax.TupleGetItem(both, 0), relax.TupleGetItem(both, 1)


def _arg(make: Any) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value]) -> Any:
        x = b.tensor(inputs[0])
        axis = b.axis(node.integer("axis", 0), b.rank(x))
        keep = bool(node.integer("keepdims", 1))
        if not node.integer("select_last_index", 0):
            return make(x, axis, keep)
        last = b.tensor(symbolic([b.solver.simplify(b.shape(x)[axis] - 1)], ()))
        return R.subtract(last, make(R.flip(x, axis), axis, keep))

    return run


def _one_hot(b: Builder, node: Node, inputs: list[Value]) -> Any:
    indices, depth = b.tensor(inputs[0]), b.sizes(inputs[1], "depth")[0]
    axis = b.axis(node.integer("axis", -1), b.rank(indices) + 1)
    b.check_shape([*b.shape(indices), depth])
    wide = b.emit(R.astype(indices, "int64") if b.dtype(indices) != "int64" else indices)
    negative = R.less(wide, b.literal(0, "int64"))
    size = b.tensor(symbolic([depth], ()))
    places = R.expand_dims(R.where(negative, R.add(wide, size), wide), axis)
    shape = [1] * (b.rank(indices) + 1)
    shape[axis] = depth
    counts = R.reshape(R.arange(0, depth, 1, "int64"), shape)
    values = b.tensor(inputs[2])
    if b.shape(values) != (2,):
        raise BadModel(f"its values have the shape {b.shape(values)} and not (2,)")
    off, on = (
        b.emit(R.reshape(R.strided_slice(values, [0], [at], [at + 1]), [])) for at in (0, 1)
    )
    return R.where(R.equal(places, counts), on, off)


def _non_zero(b: Builder, node: Node, inputs: list[Value]) -> Any:
    if not isinstance(inputs[0], np.ndarray):
        raise UnsupportedOperator("how much it finds depends on the input's data")
    return np.array(np.nonzero(inputs[0]), dtype=np.int64).reshape(max(inputs[0].ndim, 1), -1)


CONVERTERS: dict[str, Converter] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "TopK": _top_k,
    "ArgMax": _arg(R.argmax),
    "ArgMin": _arg(R.argmin),
    "OneHot": _one_hot,
    "NonZero": _non_zero,
}
