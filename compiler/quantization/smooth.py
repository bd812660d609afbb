"""Factors by channel that move the reach of activations into the weights which multiply them."""

from __future__ import annotations

import numpy as np

from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.weights import power_of_two

LEAST = 1e-4    # of the greatest weight: what a channel with hardly any weights counts as


def smoothing(most: np.ndarray, weight: np.ndarray, alpha: float) -> np.ndarray:
    """s [k] of SmoothQuant (Xiao et al., 2023): most^alpha / max|w|^(1 - alpha) of each channel.

    x / s is quantised and `weight` [k, n] times s. `most` [k] is max|x|. Where it is below the
    median of all channels (that are not zero), that stands in: a channel that happened to stay
    small in the calibration is not stretched until what comes later falls outside its range. The
    geometric mean of s is 1.
    """
    alive = most[most > 0]
    reach = np.maximum(most, np.median(alive) if len(alive) else 1.0)
    heavy = np.abs(weight).max(axis=1)
    heavy = np.maximum(heavy, LEAST * max(float(heavy.max()), 1e-30))
    return _centred(alpha * np.log(reach) - (1 - alpha) * np.log(heavy))


def equalizing(before: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """s [k] = sqrt(max|w_before| / max|w|) for the channels between two linear layers.

    By it Nagel et al. ("Data-Free Quantization Through Weight Equalization and Bias Correction",
    2019) divide columns of `before` [_, k] and multiply rows of `weight` [k, n], whose ranges are
    then equal. Here the result of `before` is divided by s where it is stored, which comes to the
    same: what lies between is at most a relu, and with a scale for each column, dividing columns
    changes nothing about how those of `before` are rounded. See `equalizable`.
    """
    first, second = np.abs(before).max(axis=0), np.abs(weight).max(axis=1)
    alive = (first > 0) & (second > 0)
    ratio = np.where(alive, np.maximum(first, 1e-30) / np.maximum(second, 1e-30), 1.0)
    return _centred(np.log(ratio) / 2)


def equalizable(layer: Layer, before: Layer | None) -> bool:
    """Whether `layer` can be equalised with the linear layer `before` that computes what it reads:
    where nothing lies between, or a relu, which factors pass through as they do not GELU; and no
    reshape that gives the channels other places."""
    if before is None or before.weight is None or layer.weight is None:
        return False
    same = before.weight.shape[1] == len(layer.weight)
    return same and before.activation in ("none", "relu") and layer.smoothable


def to_powers_of_two(s: np.ndarray) -> np.ndarray:
    """The nearest powers of two: with them, logarithmic scales stay so once s is folded in."""
    return power_of_two(s / np.float32(np.sqrt(2.0)))


def _centred(logarithm: np.ndarray) -> np.ndarray:
    centred: np.ndarray = np.exp(logarithm - logarithm.mean()).astype(np.float32)
    return centred
