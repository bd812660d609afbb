"""Workloads: what a kernel computes. How it is computed is the business of the templates in cpu/.

A size of None is known only at run time. `str` of a workload is short, stable and usable in names.
What cannot be computed is a BadWorkload, since workloads are also read from files of records.
"""

from __future__ import annotations

from pocketformer.schedules.workloads.attention import Attention
from pocketformer.schedules.workloads.checks import ACTIVATIONS, MOST, MOST_BYTES, MOST_PRODUCTS
from pocketformer.schedules.workloads.function import Function
from pocketformer.schedules.workloads.linear import Linear, QuantizedLinear, WeightOnlyLinear
from pocketformer.schedules.workloads.products import BatchMatmul, QuantizedMatmul
from pocketformer.schedules.workloads.rows import Lookup, Norm, Softmax

Workload = (
    Linear | QuantizedLinear | WeightOnlyLinear | Attention | Norm | Softmax | BatchMatmul
    | QuantizedMatmul | Lookup | Function
)

__all__ = [
    "ACTIVATIONS", "MOST", "MOST_BYTES", "MOST_PRODUCTS", "Attention", "BatchMatmul", "Function",
    "Linear", "Lookup", "Norm", "QuantizedLinear", "QuantizedMatmul", "Softmax",
    "WeightOnlyLinear", "Workload",
]
