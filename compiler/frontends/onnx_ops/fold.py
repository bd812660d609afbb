"""Operators that are computed at import: on constants, and on sizes that are symbolic.

A folder takes numpy arrays, which hold tirx expressions where an input is symbolic, and returns one
such array, a list of them, or None: not now, let it run in the compiled model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketformer.compiler.frontends.onnx_broadcast import LARGEST_FOLDED_BYTES
from pocketformer.compiler.frontends.onnx_builder import Builder
from pocketformer.compiler.frontends.onnx_file import dtype_of
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops import fold_elementwise, fold_structure, quantized
from pocketformer.compiler.frontends.onnx_ops.fold_elementwise import COMPARISONS, LOGICAL, Folder
from pocketformer.compiler.frontends.onnx_values import Symbolic, Value, object_array

# With which inputs an operator is computed at import: symbolic sizes too, or numbers only.
ON_SIZES: dict[str, Folder] = {**fold_elementwise.ON_SIZES, **fold_structure.ON_SIZES}
FOLDERS: dict[str, Folder] = {
    **ON_SIZES,
    **fold_elementwise.ON_NUMBERS,
    **fold_structure.ON_NUMBERS,
    **quantized.FOLDERS,
}


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
