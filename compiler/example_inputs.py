"""Made-up inputs for a signature: to time a model, or to see it run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import ml_dtypes  # noqa: F401 - teaches numpy the names bfloat16 and float8_*
import numpy as np

from pocketformer.compiler.axes import evaluate
from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.model import Dim, TensorSpec

USUAL = 128    # a dimension's size where its range allows it; sentences have about as many tokens


def pick_sizes(dims: Mapping[str, Dim], wanted: Mapping[str, str | int]) -> dict[str, int]:
    """A size for every dimension: the `wanted` one, else 128 within its limits, else its least.

    The least is also what a dimension without an upper limit gets, such as a batch.

    Raises BadDim for an unknown name, for what is no size, and for a size that is not allowed.
    """
    if unknown := sorted(wanted.keys() - dims.keys()):
        known = f"it has {', '.join(sorted(dims))}" if dims else "all of its sizes are fixed"
        raise BadDim(f"the model has no dimension {unknown[0]!r}; {known}")
    return {name: _pick(name, dim, wanted.get(name)) for name, dim in dims.items()}


def _pick(name: str, dim: Dim, wanted: str | int | None) -> int:
    if wanted is None:
        return max(dim.low, min(USUAL, dim.high)) if dim.high is not None else dim.low
    size = Dim.parse(wanted).fixed
    if size is None:
        raise BadDim(f"a run needs one size for {name}, not {wanted}")
    if not dim.allows(size):
        raise BadDim(f"{name} may be {dim}, not {size}")
    return size


def make_inputs(
    specs: Iterable[TensorSpec], sizes: Mapping[str, int], seed: int = 0
) -> dict[str, np.ndarray]:
    """Arrays for `specs` with the dimensions of `sizes`; the same seed makes the same arrays.

    Floats are normally distributed. Integers are 0 or 1, which every table of embeddings has, and
    masks are all ones.
    """
    random = np.random.default_rng(seed)
    return {spec.name: _array(spec, sizes, random) for spec in specs}


def _array(spec: TensorSpec, sizes: Mapping[str, int], random: np.random.Generator) -> np.ndarray:
    shape = tuple(evaluate(axis, sizes) for axis in spec.shape)
    if spec.dtype == "bool" or "mask" in spec.name.lower():
        return np.ones(shape, spec.dtype)
    if np.issubdtype(np.dtype(spec.dtype), np.integer):
        return random.integers(0, 2, shape).astype(spec.dtype)
    return random.standard_normal(shape).astype(spec.dtype)
