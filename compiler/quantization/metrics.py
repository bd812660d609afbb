"""How alike the answers of two models are, batch by batch: what Accuracy can measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

# Spearman's correlation is of all pairs; of more items the pairs of the first ones tell enough.
MOST_ITEMS = 1024
TINY = 1e-30    # in place of a norm of zero


@dataclass(frozen=True, eq=False)
class Answers:
    """One batch's answers: float32 [items, rows, n], and which rows count, bool [items, rows].

    `labels` are int64 [items, rows], the right class of each row, where the user gave them.
    """

    expected: np.ndarray
    found: np.ndarray
    counted: np.ndarray
    labels: np.ndarray | None = None


class Metric(Protocol):
    """Takes batches one at a time; its numbers may be asked for at any time after the first."""

    def update(self, answers: Answers) -> None: ...

    def value(self) -> float:
        """The metric of the compiled model, as people read it; NaN where it is none."""

    def baseline(self) -> float:
        """The same of float32."""

    def drop(self) -> float:
        """How much of the metric is lost: what a limit applies to."""


@dataclass
class Cosine:
    """The mean cosine of corresponding rows; that of equal rows is exactly 1, even of zeros."""

    total: float = 0.0
    rows: int = 0

    def update(self, answers: Answers) -> None:
        expected, found = _counted(answers)
        norms = np.sqrt(_products(expected, expected) * _products(found, found))
        cosines = _products(expected, found) / np.maximum(norms, TINY)
        self.total += float(np.where((expected == found).all(axis=-1), 1.0, cosines).sum())
        self.rows += len(expected)

    def value(self) -> float:
        return self.total / self.rows if self.rows else np.nan

    def baseline(self) -> float:
        return 1.0

    def drop(self) -> float:
        return 1.0 - self.value()


@dataclass
class TopK:
    """The share of rows whose right answer is among the `k` largest.

    The right answer is the row's label, or else float32's largest.
    """

    k: int
    right: int = 0
    right_in_float: int = 0
    rows: int = 0

    def update(self, answers: Answers) -> None:
        expected, found = _counted(answers)
        if answers.labels is None:
            wanted = expected.argmax(axis=-1)
        else:
            wanted = answers.labels[answers.counted]
        self.right += int(_among_largest(found, wanted, self.k).sum())
        self.right_in_float += int(_among_largest(expected, wanted, self.k).sum())
        self.rows += len(expected)

    def value(self) -> float:
        return self.right / self.rows if self.rows else np.nan

    def baseline(self) -> float:
        return self.right_in_float / self.rows if self.rows else np.nan

    def drop(self) -> float:
        return self.baseline() - self.value()


@dataclass
class Spearman:
    """Spearman's rank correlation of the cosines of all pairs of items.

    An item's vector is the mean of its rows. Of more than `most` items the first count.
    """

    most: int = MOST_ITEMS
    expected: list[np.ndarray] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)

    def update(self, answers: Answers) -> None:
        room = self.most - len(self.expected)
        self.expected.extend(_unit_means(answers.expected, answers.counted)[:room])
        self.found.extend(_unit_means(answers.found, answers.counted)[:room])

    def value(self) -> float:
        """NaN for less than three items, whose pairs cannot be ranked, or where all are alike."""
        if len(self.expected) < 3:
            return np.nan
        ranks = [_ranks(_pairs(np.stack(each))) for each in (self.expected, self.found)]
        a, b = (each - each.mean() for each in ranks)
        norms = float(np.sqrt((a @ a) * (b @ b)))   # of equal ranks exactly a @ b
        return float(a @ b) / norms if norms else np.nan

    def baseline(self) -> float:
        return 1.0

    def drop(self) -> float:
        return 1.0 - self.value()


@dataclass
class Sqnr:
    """Signal to quantisation noise in decibel: 10 log10(sum x^2 / sum (x - y)^2)."""

    signal: float = 0.0
    noise: float = 0.0

    def update(self, answers: Answers) -> None:
        expected, found = _counted(answers)
        self.signal += float(np.square(expected, dtype=np.float64).sum())
        self.noise += float(np.square(expected - found, dtype=np.float64).sum())

    def value(self) -> float:
        return decibels(self.drop())

    def baseline(self) -> float:
        return np.inf

    def drop(self) -> float:
        """The noise as a part of the signal."""
        if self.noise == 0:
            return 0.0
        return self.noise / self.signal if self.signal else np.inf


METRICS: dict[str, Callable[[], Metric]] = {
    "cosine": Cosine,
    "top1": lambda: TopK(1),
    "top5": lambda: TopK(5),
    "spearman": Spearman,
    "sqnr": Sqnr,
}


def decibels(noise: float) -> float:
    """The signal-to-noise ratio for a noise that is such a part of the signal."""
    return np.inf if noise == 0 else -10.0 * float(np.log10(noise))


def _counted(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """The rows that count, of float32 and of the model: [rows, n] each."""
    return answers.expected[answers.counted], answers.found[answers.counted]


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The inner product of each row of `a` [rows, n] with that of `b`, float64 [rows]."""
    return np.asarray(np.einsum("rn,rn->r", a, b, dtype=np.float64))


def _among_largest(rows: np.ndarray, wanted: np.ndarray, k: int) -> np.ndarray:
    """Whether `rows[i, wanted[i]]` is one of row i's `k` largest; of equals the first counts."""
    own = np.take_along_axis(rows, wanted[:, None], axis=-1)
    before = np.arange(rows.shape[-1]) < wanted[:, None]
    larger = (rows > own) | ((rows == own) & before)
    known: np.ndarray = ~np.isnan(own[:, 0])    # NaN is no answer
    return known & (larger.sum(axis=-1) < k)


def _unit_means(rows: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """[items, n]: the mean of each item's rows that count, of length 1."""
    sums = np.einsum("irn,ir->in", rows, counted.astype(np.float32))
    units: np.ndarray = sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), TINY)
    return units


def _pairs(units: np.ndarray) -> np.ndarray:
    """The cosines of all pairs of different items."""
    return (units @ units.T)[np.triu_indices(len(units), 1)]


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value from 0 on; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    after = np.cumsum(counts)
    ranks: np.ndarray = (after - (counts + 1) / 2)[place]
    return ranks
