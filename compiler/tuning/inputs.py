"""Made-up arguments of the kernels of a workload, of sizes and magnitudes as in a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pocketformer.compiler.model import TensorSpec
from pocketformer.compiler.tuning.job import Job

# Shares of the keys that a mask lets through; the rest is padding, which some kernels skip.
SEEN = 5 / 6
# What multiplies the numbers of a normal distribution.
SCALES = {
    "weight_scale": 0.01, "x_scale": 0.01, "scale": 0.01, "scales": 0.001, "factor": 40.0,
    "out_factor": 40.0,
}


def inputs_of(job: Job, specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """An array for each of `specs`, the inputs of the bundle of `job`: the same each time."""
    sizes = dict(job.sizes)
    return {spec.name: _array(spec, sizes, seed) for seed, spec in enumerate(specs)}


def _array(spec: TensorSpec, sizes: Mapping[str, int], seed: int) -> np.ndarray:
    """Never all zeros: the less bits change, the higher the clock."""
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    random = np.random.default_rng(seed)
    name = spec.name.rstrip("0123456789").rstrip("_")
    if name == "mask":
        seen = np.arange(shape[-1]) < SEEN * shape[-1]
        if spec.dtype == "bool":
            return np.broadcast_to(seen, shape).copy()
        lowest = np.finfo(np.float32).min
        return np.broadcast_to(np.where(seen, np.float32(0), lowest), shape).copy()
    if np.dtype(spec.dtype).kind in "iu":
        low, high = (0, 256) if spec.dtype == "uint8" else (-127, 128)
        return random.integers(low, high, shape).astype(spec.dtype)
    if name in SCALES:
        return np.full(shape, SCALES[name], np.float32)
    return random.standard_normal(shape).astype(spec.dtype)
