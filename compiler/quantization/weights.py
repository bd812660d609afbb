"""Weights in few bits: their scales, and rounding to the nearest."""

from __future__ import annotations

import numpy as np

from pocketformer.compiler.quantization.numbers import Table

RATIOS = np.linspace(7.0, 11.0, 9)    # of the greatest of a group to its scale, see group_scales
ROWS_AT_ONCE = 1 << 15                # of a table, so that a search takes little memory


def power_of_two(scale: np.ndarray) -> np.ndarray:
    """The next powers of two from `scale` on (logarithmic scales: Miyashita et al., "Convolutional
    Neural Networks using Logarithmic Data Representation", 2016)."""
    rounded: np.ndarray = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
    return rounded


def channel_scales(weight: np.ndarray, scales: str = "float") -> np.ndarray:
    """max|w| / 127 of each column of `weight` [k, n], float32 [n]; 1 for a column of zeros."""
    most = np.abs(weight).max(axis=0)
    found: np.ndarray = np.where(most > 0, most / 127, 1.0).astype(np.float32)
    return power_of_two(found) if scales == "power_of_two" else found


def round_channels(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`weight` [k, n] / `scale` [n] as int8 from -127 to 127, ties to even."""
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)


def group_of(size: int, group: int) -> int | None:
    """The greatest of `group`, half of it, ... down to 8 that divides `size`; None without one."""
    while group >= 8:
        if size % group == 0:
            return group
        group //= 2
    return None


def group_scales(
    weight: np.ndarray, group: int, counts: np.ndarray | None = None
) -> np.ndarray:
    """Scales [k / group, n] of int4 for each `group` of rows of `weight` [k, n].

    They have the least squared error among those that take the value of greatest magnitude to
    RATIOS, or minus those; `counts` [k] is how much the square of a row's error counts. A scale may
    be negative: the int4 numbers from -8 to 7 have one more on one side, which is then that of the
    greatest value.
    """
    k, n = weight.shape
    grouped = weight.reshape(k // group, group, n)
    share = None if counts is None else counts.reshape(k // group, group, 1).astype(np.float32)
    at = np.abs(grouped).argmax(axis=1)[:, None]
    greatest = np.take_along_axis(grouped, at, axis=1)
    greatest = np.where(greatest == 0, np.float32(1.0), greatest)
    least = np.full((k // group, n), np.inf, np.float32)
    best = np.empty((k // group, n), np.float32)
    for ratio in np.concatenate([-RATIOS, RATIOS]):
        scale = greatest / np.float32(ratio)
        error = grouped / scale
        np.subtract(np.clip(np.rint(error), -8, 7), error, out=error)
        error *= error
        if share is not None:
            error *= share
        total = error.sum(axis=1) * scale[:, 0] ** 2
        better = total < least
        least[better] = total[better]
        best[better] = scale[:, 0][better]
    return best


def round_groups(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`weight` [k, n] / `scale` [k / group, n] as int8 from -8 to 7, ties to even."""
    grouped = weight.reshape(len(scale), -1, weight.shape[1]) / scale[:, None]
    return np.clip(np.rint(grouped), -8, 7).astype(np.int8).reshape(weight.shape)


def table_of(rows: np.ndarray, bits: int, group: int, scales: str = "float") -> Table | None:
    """A lookup table [count, size] in `bits` 8, with a scale a row, or 4, with one for each `group`
    of a row or a part of it; None where the size is no multiple of 8."""
    count, size = rows.shape
    if bits == 8:
        scale = channel_scales(rows.T, scales)
        return Table(round_channels(rows.T, scale).T.copy(), scale[:, None], 8, size)
    fitting = group_of(size, group)
    if fitting is None:
        return None
    short = np.empty((count, size), np.int8)
    scale = np.empty((count, size // fitting), np.float32)
    for first in range(0, count, ROWS_AT_ONCE):
        part = np.ascontiguousarray(rows[first : first + ROWS_AT_ONCE].T)
        found = group_scales(part, fitting)
        short[first : first + ROWS_AT_ONCE] = round_groups(part, found).T
        scale[first : first + ROWS_AT_ONCE] = found.T
    return Table(short, scale, 4, fitting)
