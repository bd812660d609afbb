"""Which range of a tensor int8 shall cover: the observers, on what calibration has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pocketformer.compiler.quantization.histogram import Histogram
from pocketformer.compiler.quantization.statistics import TensorStatistics

OUTSIDE = 1e-4      # of all values: what percentile leaves out, on both sides
SHRINK = 0.94       # from a range to the next smaller one that the searches try
LEVELS = 255        # steps from the lowest int8 to the highest
# the ends of bins, ascending, and how much the values in each count
_Seen = tuple[np.ndarray, np.ndarray, np.ndarray]


def range_of(
    tensor: TensorStatistics, observer: str, smooth: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> tuple[float, float]:
    """The lowest and the highest value of x / `smooth` [k] to cover; 0 lies between them.

    "minmax": of all values; "average": of the moving averages of each batch's extremes. Those
    below look for a smaller range. "percentile": leaves out OUTSIDE of the values. "entropy": up
    to the magnitude where the histogram in int8 diverges least from that of all values (Migacz,
    "8-bit Inference with TensorRT", 2017); neither weighs how far outside a value lies. "mse": that
    with the least squared error of rounding and clipping, where `weight` [k] is how much the square
    of a channel counts.
    """
    divide = np.float32(1.0) if smooth is None else smooth
    if observer == "average":
        return _around_zero(tensor.average_low / divide, tensor.average_high / divide)
    low, high = _around_zero(tensor.low / divide, tensor.high / divide)
    if observer == "minmax":
        return low, high
    seen = _seen(tensor, smooth, weight)
    return _SEARCHES[observer](seen, low, high) if len(seen[0]) else (low, high)


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
    """All values, or the sample's where channels are scaled or weighted."""
    if smooth is None and weight is None:
        return tensor.histogram.bins
    values = tensor.rows / (np.float32(1.0) if smooth is None else smooth)
    found = Histogram()
    found.update(values, None if weight is None else np.broadcast_to(weight, values.shape))
    return found.bins


def _percentile(seen: _Seen, low: float, high: float) -> tuple[float, float]:
    lower, upper, counts = seen
    part = np.cumsum(counts) / counts.sum()
    first, last = np.searchsorted(part, (OUTSIDE / 2, 1 - OUTSIDE / 2))
    return max(low, min(float(lower[first]), 0.0)), min(high, max(float(upper[last]), 0.0))


def _entropy(seen: _Seen, low: float, high: float) -> tuple[float, float]:
    tried = _tried(seen, max(-low, high))
    seen = _merged(seen, float(tried[-1]) / LEVELS)
    most = min(tried, key=lambda end: _divergence(seen, max(low, -end), min(high, end)))
    return max(low, -most), min(high, most)


def _merged(seen: _Seen, least: float) -> _Seen:
    """`seen` without zeros, which every range keeps, and with a single bin for what else lies
    between -`least` and `least`, which none tells apart."""
    lower, upper, counts = seen
    below, above = upper <= -least, lower >= least
    among = counts[~below & ~above & (lower != 0) & (upper != 0)].sum(keepdims=True)
    return (
        np.concatenate([lower[below], [-least], lower[above]]),
        np.concatenate([upper[below], [least], upper[above]]),
        np.concatenate([counts[below], among, counts[above]]),
    )


def _divergence(seen: _Seen, low: float, high: float) -> float:
    """Kullback-Leibler's, of what int8 from `low` to `high` keeps of a histogram from the histogram
    with all that lies outside at the ends."""
    lower, upper, counts = seen
    values = (lower + upper) / 2
    inside = (values >= low) & (values <= high)
    if inside.sum() < 2:
        return np.inf
    kept, width = counts[inside], (upper - lower)[inside]
    clipped = kept.copy()
    clipped[0] += counts[values < low].sum()
    clipped[-1] += counts[values > high].sum()
    scale, zero = scale_and_zero(low, high)
    level = rounded(values[inside], scale, zero).astype(np.int64) + 128
    # each level spreads what it holds evenly over its bins that are not empty
    density = np.bincount(level, kept) / np.maximum(np.bincount(level, width), 1e-300)
    p, q = clipped / clipped.sum(), np.maximum(density[level] * width / kept.sum(), 1e-12)
    there = p > 0
    return float((p * np.log(np.where(there, p, 1.0) / q)).sum())


def _mse(seen: _Seen, low: float, high: float) -> tuple[float, float]:
    tried = _tried(seen, max(-low, high))
    lower, upper, counts = _merged(seen, float(tried[-1]) / LEVELS)
    ends = np.unique(np.concatenate([lower, upper]))    # of bins, and of gaps between them
    density = np.zeros(len(ends) - 1)
    density[np.searchsorted(ends, lower)] = counts / (upper - lower)

    def error(low: float, high: float) -> float:
        scale, zero = scale_and_zero(low, high)
        return float(density @ np.diff(_squares(ends / scale, zero))) * scale**3

    # both ends at once, then each: the best one depends little on the other
    most = min(tried, key=lambda end: error(max(low, -end), min(high, end)))
    low, high = max(low, -most), min(high, most)
    high = min(_tried(seen, high), key=lambda end: error(low, end))
    return -min(_tried(seen, -low), key=lambda end: error(-end, high)), high


def _squares(x: np.ndarray, zero: int) -> np.ndarray:
    """The integral from 0 to x of (q - t)^2, where int8 with this zero point takes t to q: 1/12 for
    each whole step."""
    q = rounded(x, 1.0, zero) - zero
    off = x - q
    return np.asarray(q / 12 + off * off * off / 3)


def _tried(seen: _Seen, most: float) -> np.ndarray:
    """Magnitudes from `most` down to the median of all values but 0, which no range should lose."""
    lower, upper, counts = seen
    size = np.maximum(-lower, upper)
    order = np.argsort(size)
    order = order[size[order] > np.finfo(np.float32).tiny]
    if not len(order):
        return np.array([most])
    part = np.cumsum(counts[order])
    median = size[order][np.searchsorted(part, part[-1] / 2)]
    steps = np.log(max(most, median) / median) / -np.log(SHRINK)
    return np.asarray(most * SHRINK ** np.arange(int(np.ceil(steps)) + 1))


_SEARCHES: dict[str, Callable[[_Seen, float, float], tuple[float, float]]] = {
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
