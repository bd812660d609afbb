"""Operators that are computed at import: on constants, and on sizes that are symbolic.

A folder takes numpy arrays, which hold tirx expressions where an input is symbolic, and returns one
such array, a list of them, or None: not now, let it run in the compiled model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx

from pocketformer.compiler.errors import BadModel
from pocketformer.compiler.frontends.onnx_broadcast import LARGEST_FOLDED_BYTES
from pocketformer.compiler.frontends.onnx_builder import Builder
from pocketformer.compiler.frontends.onnx_file import dtype_of
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops import slices
from pocketformer.compiler.frontends.onnx_values import Symbolic, Value, object_array

Arrays = list[np.ndarray | None]
Folder = Callable[[Builder, Node, list[Any]], Any]


def fold(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value] | None:
    """The outputs of `node`, or None where it is not computed at import."""
    folder = FOLDERS.get(node.kind)
    if folder is None or not all(
        value is None or isinstance(value, (np.ndarray, Symbolic)) for value in inputs
    ):
        return None
    symbolic = any(isinstance(value, Symbolic) for value in inputs)
    arrays = [value.array if isinstance(value, Symbolic) else value for value in inputs]
    if symbolic and node.kind not in ON_SIZES:
        return None
    if symbolic and any(array is not None and array.size > 4096 for array in arrays):
        return None
    if any(_is_shared_weight(b, array) for array in arrays):
        return None
    with np.errstate(all="ignore"):
        result = folder(b, node, arrays)
    if result is None:
        return None
    dtype = _result_dtype(b, node, inputs)
    results = result if isinstance(result, list) else [result]
    return [_value(b, array, dtype) for array in results]


def _is_shared_weight(b: Builder, array: np.ndarray | None) -> bool:
    """A large weight with other users is not stored a second time in another form."""
    return array is not None and array.nbytes > LARGEST_FOLDED_BYTES and b.weights.is_shared(array)


def _result_dtype(b: Builder, node: Node, inputs: Sequence[Value | None]) -> str:
    """What a symbolic result is; a numeric one knows it itself."""
    if node.kind in COMPARISONS or node.kind in LOGICAL:
        return "bool"
    if node.kind == "Cast":
        return str(dtype_of(node.integer("to"), "its result"))
    data = inputs[1] if node.kind in ("Where", "CastLike") else inputs[0]
    return "int64" if data is None else b.dtype(data)


def _value(b: Builder, array: Any, dtype: str) -> Value:
    if not isinstance(array, np.ndarray):
        array = object_array([array], ())
    if array.dtype != object:
        return array
    elements = [b.solver.simplify(element) for element in array.reshape(-1)]
    if all(isinstance(element, (int, float)) for element in elements):
        return np.array(elements, dtype=dtype).reshape(array.shape)
    return Symbolic(object_array(elements, array.shape), dtype)


def _small(bytes_out: float, *arrays: np.ndarray | None) -> bool:
    given = max((array.nbytes for array in arrays if array is not None), default=0)
    return bytes_out <= max(LARGEST_FOLDED_BYTES, given)


def _broadcast_is_small(*arrays: np.ndarray) -> bool:
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError as error:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise BadModel(f"shapes {shapes} do not fit together") from error
    return _small(math.prod(shape) * max(array.itemsize for array in arrays), *arrays)


def _on_objects(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    result = np.frompyfunc(function, len(arrays), 1)(*arrays)
    return result if isinstance(result, np.ndarray) else object_array([result], ())


def elementwise(
    on_numbers: Callable[..., Any], on_sizes: Callable[..., Any] | None = None
) -> Folder:
    """A folder of a numpy function and of its counterpart `on_sizes(solver, a, b)`."""

    def run(b: Builder, node: Node, arrays: list[np.ndarray]) -> np.ndarray | None:
        if not arrays or any(array is None for array in arrays):
            raise BadModel("one of its inputs is missing")
        if not _broadcast_is_small(*arrays):
            return None
        if any(array.dtype == object for array in arrays):
            if on_sizes is None:
                return None
            return _on_objects(lambda *numbers: on_sizes(b.solver, *numbers), *arrays)
        # numpy may widen a float16 or bfloat16 result.
        result = np.asarray(on_numbers(*arrays))
        return result if result.dtype == bool else result.astype(arrays[0].dtype, copy=False)

    return run


def _variadic(on_numbers: Callable[..., Any], on_sizes: Callable[..., Any]) -> Folder:
    pair = elementwise(on_numbers, on_sizes)

    def run(b: Builder, node: Node, arrays: list[np.ndarray]) -> np.ndarray | None:
        result = arrays[0]
        for array in arrays[1:]:
            result = pair(b, node, [result, array])
            if result is None:
                return None
        return result

    return run


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not np.issubdtype(a.dtype, np.integer):
        return a / b
    if not np.all(b):
        raise BadModel("it divides by zero")
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) == (b < 0), quotient, -quotient)


def _mod(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    if node.integer("fmod", 0):
        return elementwise(np.fmod)(b, node, arrays)
    return elementwise(np.mod, lambda s, x, y: s.remainder(x, y))(b, node, arrays)


def _compare(on_numbers: Callable[..., Any], kind: Callable[..., Any]) -> Folder:
    return elementwise(on_numbers, lambda s, x, y: s.compare(kind, x, y))


def _where(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    if not _broadcast_is_small(*arrays):
        return None
    if any(array.dtype == object for array in arrays):
        return _on_objects(b.solver.choose, *arrays)
    return np.where(*arrays)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _cast(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    return _cast_to(dtype_of(node.integer("to"), "its result"), arrays[0])


def _cast_like(b: Builder, node: Node, arrays: list[np.ndarray]) -> Any:
    return None if arrays[1].dtype == object else _cast_to(arrays[1].dtype, arrays[0])


def _cast_to(dtype: np.dtype, array: np.ndarray) -> Any:
    if array.dtype == object:    # a symbolic size has no float form
        return array if dtype.kind in "iu" else None
    return array.astype(dtype, copy=False) if _small(array.size * dtype.itemsize, array) else None


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
    if not _small(sum(array.nbytes for array in present), *present):
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
    if not _small(data.nbytes / max(size, 1) * indices.size, data, indices):
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


COMPARISONS: dict[str, Folder] = {
    "Equal": _compare(np.equal, tirx.EQ),
    "Less": _compare(np.less, tirx.LT),
    "LessOrEqual": _compare(np.less_equal, tirx.LE),
    "Greater": _compare(np.greater, tirx.GT),
    "GreaterOrEqual": _compare(np.greater_equal, tirx.GE),
}
LOGICAL: dict[str, Folder] = {
    "And": elementwise(np.logical_and, lambda s, x, y: s.choose(x, y, False)),
    "Or": elementwise(np.logical_or, lambda s, x, y: s.choose(x, True, y)),
    "Not": elementwise(np.logical_not, lambda s, x: s.choose(x, False, True)),
    "IsNaN": elementwise(np.isnan),
    "IsInf": elementwise(np.isinf),
}
ON_SIZES: dict[str, Folder] = {
    **COMPARISONS,
    **LOGICAL,
    "Add": elementwise(np.add, lambda s, x, y: s.simplify(x + y)),
    "Sub": elementwise(np.subtract, lambda s, x, y: s.simplify(x - y)),
    "Mul": elementwise(np.multiply, lambda s, x, y: s.simplify(x * y)),
    "Div": elementwise(_divide, lambda s, x, y: s.quotient(x, y)),
    "Mod": _mod,
    "Neg": elementwise(np.negative, lambda s, x: s.simplify(-x)),
    "Abs": elementwise(np.abs, lambda s, x: s.maximum(x, s.simplify(-x))),
    "Min": _variadic(np.minimum, lambda s, x, y: s.minimum(x, y)),
    "Max": _variadic(np.maximum, lambda s, x, y: s.maximum(x, y)),
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Range": _range,
    "ReduceSum": _reduce(np.sum),
    "ReduceProd": _reduce(np.prod),
}
FOLDERS: dict[str, Folder] = {
    **ON_SIZES,
    "Pow": elementwise(lambda x, y: np.power(x, y).astype(x.dtype)),
    "Sqrt": elementwise(np.sqrt),
    "Exp": elementwise(np.exp),
    "Log": elementwise(np.log),
    "Sin": elementwise(np.sin),
    "Cos": elementwise(np.cos),
    "Tanh": elementwise(np.tanh),
    "Erf": elementwise(_erf),
    "Floor": elementwise(np.floor),
    "Ceil": elementwise(np.ceil),
    "Round": elementwise(np.round),
    "Sign": elementwise(np.sign),
    "Reciprocal": elementwise(np.reciprocal),
    "MatMul": _matmul,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceMean": _reduce(np.mean),
    "CumSum": _cumsum,
    "Trilu": _trilu,
}
