"""What a linear layer adds to its products, in float64: what all its kernels are held to."""

from __future__ import annotations

import math

import numpy as np

from pocketformer.schedules.cpu.short_stores import RANGE
from pocketformer.schedules.workloads import Linear, QuantizedLinear, WeightOnlyLinear
from tests.numerics.tolerance import TOLERANCE
from tests.schedules.running import call, random

erf = np.vectorize(math.erf)
ACTIVATIONS = {
    "": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}


def finished(
    work: Linear | QuantizedLinear | WeightOnlyLinear,
    products: np.ndarray,
    inputs: list[np.ndarray],
    size: float = 1,
) -> np.ndarray:
    """activation(products + bias) + residual; `inputs` gets the random bias and residual."""
    m, n = products.shape
    if work.bias:
        inputs.append(np.float32(size) * random(n, seed=1))
        products = products + inputs[-1]
    products = ACTIVATIONS[work.activation](products)
    if work.residual:
        inputs.append(np.float32(size) * random(m, n, seed=2))
        products = products + inputs[-1]
    return products


def assert_rounded(
    work: Linear | QuantizedLinear, isa: str, inputs: list[np.ndarray], expected: np.ndarray
) -> None:
    """That the kernel rounds `expected` to the workload's dtype, but for what float32 is off by.

    `inputs` gets the factors and the zero of integers.
    """
    exact, dtype = expected, work.out_dtype
    rough = "bfloat16 activation" if work.activation else "float32 kernel"
    off = 0.0 if dtype == "int32" else TOLERANCE[rough]
    near = off * np.abs(expected).max(keepdims=True)
    if dtype in RANGE:
        low, high = RANGE[dtype]
        factor = (100 / np.abs(expected).max() * np.linspace(0.8, 1.4, work.n)).astype("float32")
        middle = np.int32((low + high) // 2 + 1)
        inputs += [factor, np.array([middle])]
        exact, near = expected * factor, near * factor
    (result,) = call(work, isa, inputs, expected.shape, dtype=dtype)
    least, most = exact - near, exact + near      # either side of what float32 makes a tie
    if dtype in RANGE:
        least, most = (np.clip(np.round(each) + middle, low, high) for each in (least, most))
    else:
        least, most = least.astype(dtype), most.astype(dtype)
    assert ((least <= result) & (result <= most)).all()
    assert len(np.unique(result)) > min(5, result.size // 2)
