"""Bias correction: what rounding adds to the mean of a layer's result is taken off its bias."""

from __future__ import annotations

import numpy as np


def corrected(
    bias: np.ndarray | None, mean: np.ndarray, weight: np.ndarray, rounded_mean: np.ndarray,
    rounded_weight: np.ndarray,
) -> np.ndarray:
    """`bias` [n] plus E[x] @ W - E[x_q] @ W_q, float32 [n].

    `mean` and `rounded_mean` [k] are those of x and of what x is rounded to, `weight` and
    `rounded_weight` [k, n] likewise. Nagel et al., "Data-Free Quantization Through Weight
    Equalization and Bias Correction", 2019, with means that calibration has measured.
    """
    shift = mean.astype(np.float64) @ weight - rounded_mean.astype(np.float64) @ rounded_weight
    return np.asarray(shift if bias is None else bias + shift, np.float32)
