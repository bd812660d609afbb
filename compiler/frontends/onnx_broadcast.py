"""Makes the sizes of tensors agree that ONNX lets meet in one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel
from pocketformer.compiler.frontends.onnx_builder import Builder
from pocketformer.compiler.frontends.onnx_values import Size, Symbolic, Value

# A result of up to this is computed at import; a larger one only if its inputs were as large.
LARGEST_FOLDED_BYTES = 4 << 20


def is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


def differ(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be different."""
    return isinstance(a, int) and isinstance(b, int) and a != b


def broadcast_shape(shapes: Sequence[Sequence[Size]]) -> tuple[Size, ...]:
    """The common shape; where two symbols cannot be told apart the first is taken."""
    rank = max(len(shape) for shape in shapes)
    result: list[Size] = [1] * rank
    for shape in shapes:
        for index, size in enumerate(shape, start=rank - len(shape)):
            other = result[index]
            if is_one(other) or (isinstance(size, int) and not isinstance(other, int)):
                result[index] = other if is_one(size) else size
            elif differ(size, other) and not is_one(size):
                raise BadModel(f"sizes {other} and {size} do not fit together")
    return tuple(result)


def require_broadcast(b: Builder, shape: Sequence[Size], common: Sequence[Size]) -> None:
    """See to it that the sizes of `shape` are 1 or those of `common`."""
    tail = common[len(common) - len(shape) :]
    b.require(shape, [x if is_one(x) else y for x, y in zip(shape, tail, strict=True)])


def broadcast(b: Builder, *values: Value) -> list[relax.Expr]:
    """The values as tensors that an elementwise Relax operator takes."""
    common = broadcast_shape([b.shape(value) for value in values])
    for value in values:
        require_broadcast(b, b.shape(value), common)
    return [b.tensor(value) for value in values]


def broadcast_to(b: Builder, value: Value, shape: Sequence[Size]) -> Value:
    """`value` spread over `shape`; a constant stays one where the result is small."""
    if b.same_shape(b.shape(value), shape):
        return value
    known = [int(size) for size in shape if isinstance(size, int)]
    if isinstance(value, (np.ndarray, Symbolic)) and len(known) == len(shape):
        array = value if isinstance(value, np.ndarray) else value.array
        if math.prod(known) * array.itemsize <= LARGEST_FOLDED_BYTES:
            array = np.ascontiguousarray(np.broadcast_to(array, known))
            return array if isinstance(value, np.ndarray) else Symbolic(array, value.dtype)
    require_broadcast(b, b.shape(value), shape)
    return b.emit(R.broadcast_to(b.tensor(value), list(shape)))
