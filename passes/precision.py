"""In how many bits layers and kernels compute, in words for people."""

from __future__ import annotations

from pocketformer.compiler.quantization.numbers import (
    CastLayer,
    DynamicLinear,
    Int4Linear,
    Numbers,
    Table,
)
from pocketformer.schedules.workloads import (
    Lookup,
    QuantizedLinear,
    WeightOnlyLinear,
    Workload,
)

PRECISION = "pocketformer.precision"    # a PrimFunc's attribute: what `precision_of` says of it
FLOAT, BY_TOKEN = "float32", "int8 (by token)"
# What a template multiplies, by the words of its kernels' names. Weights of 4 or 8 bits alone are
# multiplied as int8 as well, by float32 in several parts.
_MULTIPLIED = {
    "bf16": "bfloat16", "f16": "float16", "i8": "int8", "i4w": "int8", "i8w": "int8",
}


def precision_of(workload: Workload) -> str:
    """The dtype of what is multiplied: int8, "int8 (by token)", "int4 weights", bfloat16, ..."""
    match workload:
        case QuantizedLinear(x_dtype="float32") | QuantizedLinear(per_row=True):
            return BY_TOKEN
        case WeightOnlyLinear(bits=bits) | Lookup(bits=bits):
            return _weights(bits)
    return str(getattr(workload, "dtype", FLOAT))


def precision_of_layer(numbers: Numbers | None) -> str:
    """What a layer with these numbers multiplies, in the same words; None stands for float32."""
    match numbers:
        case None:
            return FLOAT
        case CastLayer(dtype):
            return dtype
        case DynamicLinear():
            return BY_TOKEN
        case Int4Linear():
            return _weights(4)
        case Table():
            return _weights(numbers.bits)
    return "int8"


def multiplied_by(kernel: str) -> str:
    """The dtype that a template's kernel of this name multiplies, whose peak is its limit."""
    words = kernel.split("_")[:2]
    return next((_MULTIPLIED[word] for word in words if word in _MULTIPLIED), FLOAT)


def _weights(bits: int) -> str:
    return f"int{bits} weights"
