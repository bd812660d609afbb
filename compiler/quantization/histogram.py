"""Counts of values by sign, exponent and the first bits of the mantissa."""

from __future__ import annotations

import numpy as np

MANTISSA = 6                               # bits, so that a bin is 0.8 to 1.6 % of its values wide
SHIFT = np.finfo(np.float32).nmant - MANTISSA
ALL = 1 << (32 - SHIFT)                    # what the first bits of a float32 can be
_MOST = np.float32(np.inf).view(np.int32) >> SHIFT    # bins of finite values of one sign
_ENDS = (np.arange(_MOST, dtype=np.int32) << SHIFT).view(np.float32).astype(np.float64)
_ENDS = np.append(_ENDS, float(np.finfo(np.float32).max))
EDGES = np.concatenate([-_ENDS[:0:-1], _ENDS])    # of all bins, the lowest values first
# where the counts of those bins lie: a negative number's first bits grow with its magnitude
_ORDER = np.concatenate([np.arange(_MOST)[::-1] + ALL // 2, np.arange(_MOST)])


class Histogram:
    """Counts, float64, in bins that are narrow beside the values that they hold.

    So values of all magnitudes are told apart alike, and ranges need not be known before.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(ALL)

    def update(self, values: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Counts finite float32 `values`, each as often as `weights` of the same shape says."""
        bins = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> SHIFT).reshape(-1)
        share = None if weights is None else weights.reshape(-1)
        self._counts += np.bincount(bins, share, ALL)

    @property
    def bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The lower ends, upper ends and counts of bins that are not empty, the lowest first."""
        counts = self._counts[_ORDER]
        held = np.flatnonzero(counts)
        return EDGES[held], EDGES[held + 1], counts[held]
