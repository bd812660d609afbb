"""What calibration keeps of a tensor: its size does not depend on the number of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from pocketformer.compiler.quantization.histogram import Histogram

RESERVOIR = 512          # rows
AVERAGE = 0.9            # what a new batch leaves of the moving average before it
SEED = 0
BUDGET = 2 << 30         # bytes of the second moments of all tensors
WIDEST, NARROWEST = 4096, 128    # blocks of channels: 128 MiB each, and a group of int4


def block_of(channels: Iterable[int]) -> int:
    """How many neighbouring channels have second moments with one another: WIDEST, or half of it,
    ... so that those of tensors of so many `channels` take at most BUDGET; 0 below NARROWEST."""
    sizes, block = list(channels), WIDEST
    while sum(8 * k * min(k, block) for k in sizes) > BUDGET:
        block //= 2
    return block if block >= NARROWEST else 0


class TensorStatistics:
    """Of a tensor of rows [rows, channels], over all batches so far; k channels.

    `low`, `high`, `mean`: float32 [k], of each channel. `average_low`, `average_high`: float32 [k],
    moving averages of each batch's extremes. `histogram`: of all values. `rows`: float32 [r, k], at
    most RESERVOIR rows, each row seen equally likely among them. `count`: rows seen;
    `batches`: batches seen. `blocks`: the channels that have second moments with one another,
    `block` of them each but the last; none for a `block` of 0.
    `finite`: False once a value was NaN or infinite; such a batch counts for nothing else.
    """

    def __init__(self, channels: int, block: int = 0) -> None:
        self.low = np.full(channels, np.inf, np.float32)
        self.high = np.full(channels, -np.inf, np.float32)
        self.average_low = np.zeros(channels, np.float32)
        self.average_high = np.zeros(channels, np.float32)
        self.histogram = Histogram()
        self.count = 0
        self.batches = 0
        self.finite = True
        self._sum = np.zeros(channels)
        starts = range(0, channels, block) if block else ()
        self.blocks = [slice(start, min(start + block, channels)) for start in starts]
        # Of x less the mean of the first batch, so that a great mean does not drown what varies.
        self._products = [np.zeros((each.stop - each.start,) * 2) for each in self.blocks]
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

    def moments(self, about_mean: bool) -> Iterator[np.ndarray]:
        """The mean of x^T x of each of `blocks`, or with `about_mean` that of x less its mean, the
        covariance; float64 [b, b]."""
        mean = self._sum / max(self.count, 1)
        off = mean - self._shift
        for block, products in zip(self.blocks, self._products, strict=True):
            moment = products / max(self.count, 1) - np.outer(off[block], off[block])
            if not about_mean:
                moment += np.outer(mean[block], mean[block])
            yield moment

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
        if self.blocks and not self.count:
            self._shift = rows.mean(axis=0)
        for place, block in enumerate(self.blocks):
            moved = rows[:, block] - self._shift[block]
            self._products[place] += moved.T @ moved
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
