"""Elementwise operators on constants and on symbolic sizes, for what is computed at import."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from pocketformer.compiler.errors import BadModel
from pocketformer.compiler.frontends.onnx_broadcast import LARGEST_FOLDED_BYTES
from pocketformer.compiler.frontends.onnx_builder import Builder
from pocketformer.compiler.frontends.onnx_file import dtype_of
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import object_array

Folder = Callable[[Builder, Node, list[Any]], Any]


def small(bytes_out: float, *arrays: np.ndarray | None) -> bool:
    given = max((array.nbytes for array in arrays if array is not None), default=0)
    return bytes_out <= max(LARGEST_FOLDED_BYTES, given)


def _broadcast_is_small(*arrays: np.ndarray) -> bool:
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError as error:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise BadModel(f"shapes {shapes} do not fit together") from error
    return small(math.prod(shape) * max(array.itemsize for array in arrays), *arrays)


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
    return array.astype(dtype, copy=False) if small(array.size * dtype.itemsize, array) else None


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
}
ON_NUMBERS: dict[str, Folder] = {
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
}
