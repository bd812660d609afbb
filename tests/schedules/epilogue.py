"""What a linear layer adds to its products, in float64: what all its kernels are held to."""

from __future__ import annotations

import math

import numpy as np

from pocketformer.schedules.workloads import Linear, QuantizedLinear, WeightOnlyLinear
from tests.schedules.running import random

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
