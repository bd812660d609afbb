"""What calibration keeps of a tensor: its size does not depend on the number of batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from pocketformer.compiler.quantization.histogram import Histogram

RESERVOIR = 512          # rows
AVERAGE = 0.9            # what a new batch leaves of the moving average before it
SEED = 0


class TensorStatistics:
    """Of a tensor of rows [rows, channels], over all batches so far; k channels.

    `low`, `high`, `mean`: float32 [k], of each channel. `average_low`, `average_high`: float32 [k],
    moving averages of each batch's extremes. `histogram`: of all values. `rows`: float32 [r, k], at
    most RESERVOIR rows, each row seen equally likely among them. `covariance` and `second`, the
    mean of x^T x: float64 [k, k], where `second` was asked for, else None. `count`: rows seen;
    `batches`: batches seen.
    `finite`: False once a value was NaN or infinite; such a batch counts for nothing else.
    """

    def __init__(self, channels: int, second: bool = False) -> None:
        self.low = np.full(channels, np.inf, np.float32)
        self.high = np.full(channels, -np.inf, np.float32)
        self.average_low = np.zeros(channels, np.float32)
        self.average_high = np.zeros(channels, np.float32)
        self.histogram = Histogram()
        self.count = 0
        self.batches = 0
        self.finite = True
        self._sum = np.zeros(channels)
        # Of x less the mean of the first batch, so that a great mean does not drown what varies.
        self._products = np.zeros((channels, channels)) if second else None
        self._shift = np.zeros(channels, np.float32)
        self._rows = np.empty((RESERVOIR, channels), np.float32)
        self._random = np.random.default_rng(SEED)

    @property
    def most(self) -> np.ndarray:
        """max |x| of each channel, float32 [k]."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def mean(self) -> np.ndarray:
        """Of each channel, float32 [k]."""
        mean: np.ndarray = (self._sum / max(self.count, 1)).astype(np.float32)
        return mean

    @property
    def covariance(self) -> np.ndarray | None:
        if self._products is None:
            return None
        off = self._sum / max(self.count, 1) - self._shift
        return np.asarray(self._products / max(self.count, 1) - np.outer(off, off))

    @property
    def second(self) -> np.ndarray | None:
        covariance, mean = self.covariance, self._sum / max(self.count, 1)
        return None if covariance is None else np.asarray(covariance + np.outer(mean, mean))

    @property
    def rows(self) -> np.ndarray:
        """float32 [r, k]: a sample of the rows."""
        return self._rows[: min(self.count, RESERVOIR)]

    def update(self, rows: np.ndarray) -> None:
        """Takes a batch's rows, float32 [rows, k], into account."""
        if not len(rows):
            return
        if not np.isfinite(rows).all():
            self.finite = False
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        np.minimum(self.low, low, out=self.low)
        np.maximum(self.high, high, out=self.high)
        kept = AVERAGE if self.batches else 0.0
        self.average_low = kept * self.average_low + (1 - kept) * low
        self.average_high = kept * self.average_high + (1 - kept) * high
        self._sum += rows.sum(axis=0, dtype=np.float64)
        if self._products is not None:
            if not self.count:
                self._shift = rows.mean(axis=0)
            moved = rows - self._shift
            self._products += moved.T @ moved
        self.histogram.update(rows)
        self._sample(rows)
        self.count += len(rows)
        self.batches += 1

    def _sample(self, rows: np.ndarray) -> None:
        """Algorithm R (Vitter, "Random Sampling with a Reservoir", 1985), a batch at a time."""
        free = max(0, min(len(rows), RESERVOIR - self.count))
        self._rows[self.count : self.count + free] = rows[:free]
        seen = np.arange(self.count + free, self.count + len(rows))
        places = self._random.integers(0, seen + 1)
        for row in np.flatnonzero(places < RESERVOIR):
            self._rows[places[row]] = rows[free + row]


Statistics: TypeAlias = Mapping[str, TensorStatistics]
