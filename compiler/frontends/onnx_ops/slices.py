"""Slice, Split and the like: exact begin and length, where sizes may be symbolic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import Size, Symbolic, Value

ENDLESS = 2**31 - 1    # exporters write INT32_MAX or INT64_MAX for "to the end"


@dataclass(frozen=True)
class Cut:
    """`length` elements of `axis` from `start` on, `step` apart."""

    axis: int
    start: Size
    length: Size
    step: int


def read_slices(
    b: Builder, node: Node, shape: Sequence[Size], inputs: Sequence[Any], of_weight: bool = False
) -> list[Cut]:
    """What a Slice node cuts from a tensor of `shape`; `inputs` are starts, ends, axes, steps."""
    starts, ends, axes, steps = ([*inputs, None, None, None, None])[:4]
    if starts is None or ends is None:
        raise BadModel("its starts or ends are missing")
    begin, end = b.sizes(starts, "starts"), b.sizes(ends, "ends")
    on = b.sizes(axes, "axes") if axes is not None else list(range(len(begin)))
    by = b.sizes(steps, "steps") if steps is not None else [1] * len(begin)
    if not len(begin) == len(end) == len(on) == len(by):
        raise BadModel("its starts, ends, axes and steps are not equally many")
    cuts = []
    for first, last, axis, step in zip(begin, end, on, by, strict=True):
        if not isinstance(axis, int) or not isinstance(step, int) or step == 0:
            raise UnsupportedOperator("its axes or steps are symbolic, or a step is 0")
        place = b.axis(axis, len(shape))
        if of_weight and isinstance(shape[place], int):
            # A table that is cut to the sequence's length: the sequence is not longer than that.
            b.solver.lower_ceiling(last, shape[place])
        cuts.append(_cut(b, place, first, last, step, shape[place]))
    return cuts


def _cut(b: Builder, axis: int, first: Size, last: Size, step: int, size: Size) -> Cut:
    solve = b.solver
    if step < 0:
        first, last = from_front(b, first, size), from_front(b, last, size)
        first = solve.minimum(solve.maximum(first, -1), solve.simplify(size - 1))
        last = solve.maximum(last, -1)
        distance = solve.maximum(solve.simplify(first - last), 0)
        return Cut(axis, first, solve.simplify((distance - step - 1) // -step), step)
    first, last = from_front(b, first, size), from_front(b, last, size)
    first = solve.minimum(solve.maximum(first, 0), size)
    last = solve.minimum(solve.maximum(last, 0), size)
    distance = solve.maximum(solve.simplify(last - first), 0)
    return Cut(axis, first, solve.simplify((distance + step - 1) // step), step)


def from_front(b: Builder, index: Size, size: Size) -> Size:
    """A negative index counts from the end."""
    if isinstance(index, int):
        if index >= ENDLESS:
            return size
        if index <= -ENDLESS:
            return -1
        return index if index >= 0 else b.solver.simplify(index + size)
    negative = b.solver.compare(tirx.LT, index, 0)
    return b.solver.choose(negative, b.solver.simplify(index + size), index)


def cut(b: Builder, value: Value, cuts: Sequence[Cut]) -> Value:
    """`value` with the cuts made; those that keep a whole axis cost nothing."""
    shape = list(b.shape(value))
    cuts = [
        one for one in cuts
        if not (one.step == 1 and b.solver.equal(one.length, shape[one.axis]))
    ]    # fmt: skip
    for one in cuts:
        shape[one.axis] = one.length
    if any(isinstance(size, int) and size == 0 for size in shape):
        return _nothing(b, value, shape)
    if not cuts:
        return value
    tensor = b.tensor(value)
    for one in [one for one in cuts if one.step < 0]:
        tensor = _reversed(b, tensor, one)
    forward = [one for one in cuts if one.step > 0]
    if not forward:
        return tensor
    begins = [one.start for one in forward]
    ends = [one.start + (one.length - 1) * one.step + 1 for one in forward]
    sliced = R.strided_slice(
        tensor,
        [one.axis for one in forward],
        begins,
        [b.solver.simplify(end) for end in ends],
        [one.step for one in forward],
        assume_inbound=True,
    )
    return b.emit(sliced)


def _is_symbolic(shape: Sequence[Size]) -> bool:
    return any(not isinstance(size, int) for size in shape)


def _nothing(b: Builder, value: Value, shape: list[Size]) -> np.ndarray:
    if _is_symbolic(shape):
        raise UnsupportedOperator("its result is empty and has symbolic sizes")
    return np.empty(shape, b.dtype(value))


def _reversed(b: Builder, tensor: relax.Expr, one: Cut) -> relax.Expr:
    if isinstance(one.start, int) and isinstance(one.length, int):
        indices = one.start + one.step * np.arange(one.length)
        return b.emit(R.take(tensor, b.tensor(indices), axis=one.axis, mode="clip"))
    if one.step != -1 or not b.solver.equal(one.length, b.shape(tensor)[one.axis]):
        raise UnsupportedOperator("it walks backwards over part of a symbolic axis")
    return b.emit(R.flip(tensor, one.axis))


def _slice(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    data = inputs[0]
    if data is None:
        raise BadModel("its data is missing")
    cuts = read_slices(b, node, b.shape(data), inputs[1:], isinstance(data, np.ndarray))
    return cut(b, data, cuts)


def _split(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    data = inputs[0]
    if data is None:
        raise BadModel("its data is missing")
    axis = b.axis(node.integer("axis", 0), b.rank(data))
    lengths = _lengths(b, node, inputs, b.shape(data)[axis])
    starts: list[Size] = [0]
    for length in lengths:
        starts.append(b.solver.simplify(starts[-1] + length))
    if not b.solver.equal(starts[-1], b.shape(data)[axis]):
        raise BadModel(f"its parts add up to {starts[-1]}, the axis has {b.shape(data)[axis]}")
    if isinstance(data, np.ndarray):
        return tuple(np.split(data, starts[1:-1], axis))
    if isinstance(data, Symbolic):
        return tuple(
            Symbolic(part, data.dtype) for part in np.split(data.array, starts[1:-1], axis)
        )
    if len(lengths) == 1:
        return (data,)
    if _is_symbolic(lengths) or 0 in lengths:
        return tuple(
            cut(b, data, [Cut(axis, start, length, 1)])
            for start, length in zip(starts, lengths, strict=False)
        )
    parts = b.emit(R.split(data, starts[1:-1], axis))
    return tuple(relax.TupleGetItem(parts, index) for index in range(len(lengths)))


def _lengths(
    b: Builder, node: Node, inputs: list[Value | None], size: Size
) -> list[Size]:
    if len(inputs) > 1 and inputs[1] is not None:
        lengths = b.sizes(inputs[1], "split")
    elif "split" in node.attributes:
        lengths = list(node.integers("split"))
    else:
        count = node.integer("num_outputs", len(node.outputs))
        if not 0 < count <= len(node.outputs):
            raise BadModel(f"it splits into {count} parts and has {len(node.outputs)} outputs")
        part = b.solver.simplify((size + count - 1) // count)
        lengths = [part] * (count - 1) + [b.solver.simplify(size - part * (count - 1))]
    if any(isinstance(length, int) and length < 0 for length in lengths):
        raise BadModel("one of its parts has a negative length")
    return lengths


CONVERTERS: dict[str, Converter] = {"Slice": _slice, "Split": _split}
