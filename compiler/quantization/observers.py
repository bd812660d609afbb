"""Which range of a tensor int8 shall cover: the observers, on what calibration has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pocketformer.compiler.quantization.statistics import BINS, TensorStatistics

OUTSIDE = 1e-4                          # of all values: what percentile leaves out, on both sides
SHRINK = np.geomspace(1.0, 0.05, 48)    # parts of the full range that the searches try
LEVELS = 255                            # steps from the lowest int8 to the highest
_Seen = tuple[np.ndarray, np.ndarray]     # values, ascending, and how much each counts


def range_of(
    tensor: TensorStatistics, observer: str, smooth: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> tuple[float, float]:
    """The lowest and the highest value of x / `smooth` [k] to cover; 0 lies between them.

    "minmax": of all values; "average": of the moving averages of each batch's extremes. Those
    below look for a smaller range. "percentile": leaves out OUTSIDE of the values. "entropy": up
    to the magnitude where the histogram in int8 diverges least from that of all values (Migacz,
    "8-bit Inference with TensorRT", 2017). "mse": that with the least squared error
    of rounding and clipping, where `weight` [k] is how much the square of a channel counts.
    """
    divide = np.float32(1.0) if smooth is None else smooth
    if observer == "average":
        return _around_zero(tensor.average_low / divide, tensor.average_high / divide)
    low, high = _around_zero(tensor.low / divide, tensor.high / divide)
    if observer == "minmax":
        return low, high
    return _SEARCHES[observer](_seen(tensor, smooth, weight), low, high)


def scale_and_zero(low: float, high: float) -> tuple[float, int]:
    """Of x = scale * (q - zero), with int8 q: scale = (high - low) / 255, zero = -128 - low / scale
    rounded, so that 0 is exact (Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", 2018)."""
    scale = (high - low) / LEVELS
    if scale < np.finfo(np.float32).tiny:
        return 1.0, 0
    return scale, int(np.clip(np.rint(-128 - low / scale), -128, 127))


def rounded(values: np.ndarray, scale: Any, zero: Any) -> np.ndarray:
    """The int8 numbers of `values`, as floating point."""
    return np.asarray(np.clip(np.rint(values / scale) + zero, -128, 127))


def by_row(rows: np.ndarray) -> np.ndarray:
    """`rows`, each rounded to the 256 numbers of its own range."""
    low = np.minimum(rows.min(axis=-1, keepdims=True), 0)
    high = np.maximum(rows.max(axis=-1, keepdims=True), 0)
    scale = (high - low) / np.float32(LEVELS)
    scale[scale == 0] = 1
    zero = np.rint(-128 - low / scale)
    return np.asarray((rounded(rows, scale, zero) - zero) * scale)


def _around_zero(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    return min(float(low.min()), 0.0), max(float(high.max()), 0.0)


def _seen(
    tensor: TensorStatistics, smooth: np.ndarray | None, weight: np.ndarray | None
) -> _Seen:
    """All values, by the histogram, or the sample's where channels are scaled or weighted."""
    if smooth is None and weight is None:
        edges = tensor.histogram.edges
        return (edges[1:] + edges[:-1]) / 2, tensor.histogram.counts.astype(np.float64)
    values = tensor.rows / (np.float32(1.0) if smooth is None else smooth)
    most = float(np.abs(values).max(initial=0.0)) or 1.0
    weights = None if weight is None else np.broadcast_to(weight, values.shape)
    counts, edges = np.histogram(values, BINS, (-most, most), weights=weights)
    return (edges[1:] + edges[:-1]) / 2, counts.astype(np.float64)


def _percentile(seen: _Seen, low: float, high: float) -> tuple[float, float]:
    values, counts = seen
    part = np.cumsum(counts) / counts.sum()
    first, last = np.searchsorted(part, (OUTSIDE / 2, 1 - OUTSIDE / 2))
    return max(low, min(float(values[first]), 0.0)), min(high, max(float(values[last]), 0.0))


def _entropy(seen: _Seen, low: float, high: float) -> tuple[float, float]:
    most = max(-low, high)
    return min(
        ((max(low, -most * part), min(high, most * part)) for part in SHRINK),
        key=lambda ends: _divergence(seen, *ends),
    )


def _divergence(seen: _Seen, low: float, high: float) -> float:
    """Kullback-Leibler's, of what int8 from `low` to `high` keeps of a histogram from the histogram
    with all that lies outside at the ends."""
    values, counts = seen
    inside = (values >= low) & (values <= high)
    if inside.sum() < 2:
        return np.inf
    kept = counts[inside]
    clipped = kept.copy()
    clipped[0] += counts[values < low].sum()
    clipped[-1] += counts[values > high].sum()
    scale, zero = scale_and_zero(low, high)
    level = rounded(values[inside], scale, zero).astype(np.int64) + 128
    # each level spreads what it holds evenly over those of its bins that were not empty
    shares = np.bincount(level, kept > 0, LEVELS + 1)
    spread = np.where(
        kept > 0, np.bincount(level, kept, LEVELS + 1)[level] / np.maximum(shares[level], 1), 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1e-300)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))).sum())


def _mse(seen: _Seen, low: float, high: float) -> tuple[float, float]:
    values, counts = seen
    held = counts > 0
    values, counts = values[held], counts[held]

    def error(ends: tuple[float, float]) -> float:
        scale, zero = scale_and_zero(*ends)
        return float(counts @ ((rounded(values, scale, zero) - zero) * scale - values) ** 2)

    # the ends one after the other: the best high does not depend much on the best low
    best_high = min((high * part for part in SHRINK), key=lambda end: error((low, end)))
    best_low = min((low * part for part in SHRINK), key=lambda end: error((end, best_high)))
    return best_low, best_high


_SEARCHES: dict[str, Callable[[_Seen, float, float], tuple[float, float]]] = {
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
