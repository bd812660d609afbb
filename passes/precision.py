"""In how many bits a kernel computes, in words for people."""

from __future__ import annotations

from pocketformer.schedules.workloads import (
    Lookup,
    QuantizedLinear,
    WeightOnlyLinear,
    Workload,
)

PRECISION = "pocketformer.precision"    # a PrimFunc's attribute: what `precision_of` says of it


def precision_of(workload: Workload) -> str:
    """The dtype of what is multiplied: int8, "int8 (by token)", "int4 weights", bfloat16, ..."""
    match workload:
        case QuantizedLinear(x_dtype="float32") | QuantizedLinear(per_row=True):
            return "int8 (by token)"
        case WeightOnlyLinear(bits=bits) | Lookup(bits=bits):
            return f"int{bits} weights"
    return str(getattr(workload, "dtype", "float32"))
