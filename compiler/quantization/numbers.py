"""What each layer of a model computes with in few bits: plain arrays, decided before any pass.

A layer is known by its key: the name of the variable that its fused operator is bound to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np


@dataclass(frozen=True, eq=False)
class Activation:
    """How a tensor becomes int8: clip(round(x * factor) + zero, -128, 127), ties to even.

    `factor` [k] or [1] is 1 / (scale * s), with SmoothQuant's s of each channel: weights that
    multiply it are times s.
    """

    factor: np.ndarray    # float32
    zero: int


@dataclass(frozen=True, eq=False)
class StaticLinear:
    """x_q @ weight * weight_scale + bias, with `weight_scale` times the scale of x.

    `weight` is int8 [k, n], `weight_scale` float32 [n]; `bias` float32 [n] takes the place of the
    layer's own, None where it has none. It does not hold the share of x's zero.
    """

    x: Activation
    weight: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True, eq=False)
class DynamicLinear:
    """Rows of x * `factor` [k] (None: of x) are quantised by their own ranges."""

    factor: np.ndarray | None
    weight: np.ndarray
    weight_scale: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Int4Linear:
    """`weight` is int8 [k, n] from -8 to 7, `scale` float32 [k / group, n]."""

    weight: np.ndarray
    scale: np.ndarray
    group: int
    bias: np.ndarray | None


@dataclass(frozen=True)
class CastLayer:
    """A linear layer or attention that multiplies in bfloat16 or float16."""

    dtype: str


@dataclass(frozen=True)
class Int8Attention:
    """Queries, keys and values are symmetric: clip(round(x / scale), -128, 127), ties to even."""

    query_scale: float
    key_scale: float
    value_scale: float


@dataclass(frozen=True)
class DynamicAttention:
    """Queries, keys and values are symmetric by ranges that the kernel finds: those of a query of a
    head, of the keys of a head and of its values."""


@dataclass(frozen=True, eq=False)
class Table:
    """A lookup table: `rows` [count, size] int8 (of 4 bits from -8 to 7), `scale`
    float32 [count, size / group]."""

    rows: np.ndarray
    scale: np.ndarray
    bits: int
    group: int


Numbers: TypeAlias = (
    StaticLinear | DynamicLinear | Int4Linear | CastLayer | Int8Attention | DynamicAttention | Table
)


@dataclass(frozen=True)
class Quantization:
    """The layers that are not computed in float32."""

    layers: Mapping[str, Numbers] = field(default_factory=dict)
