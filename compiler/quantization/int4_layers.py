"""Linear layers with int4 weights."""

from __future__ import annotations

import numpy as np

from pocketformer.compiler.quantization.bias import corrected
from pocketformer.compiler.quantization.gptq import fit_scales, round_in_order
from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.numbers import Int4Linear
from pocketformer.compiler.quantization.statistics import TensorStatistics
from pocketformer.compiler.quantization.weights import group_of, group_scales, round_groups


def int4_layer(layer: Layer, tensor: TensorStatistics | None, group: int) -> Int4Linear | None:
    """The layer in groups of `group` or a part of it; None where k is no multiple of 8.

    With the covariance of x, weights are rounded by GPTQ, and the bias takes the error of the
    mean; without, to the nearest. Where only that of blocks of x is known, the errors of a weight
    are made up for in its own block.
    """
    assert layer.weight is not None
    fitting = group_of(len(layer.weight), group)
    if fitting is None:
        return None
    if tensor is None or not tensor.blocks:
        scale = group_scales(layer.weight, fitting)
        return Int4Linear(round_groups(layer.weight, scale), scale, fitting, layer.bias)
    parts = [
        _rounded(layer.weight[rows], covariance, fitting)
        for rows, covariance in zip(tensor.blocks, tensor.moments(about_mean=True), strict=True)
    ]
    short, scale = (np.concatenate(each) for each in zip(*parts, strict=True))
    wide = short * np.repeat(scale, fitting, axis=0)
    bias = corrected(layer.bias, tensor.mean, layer.weight, tensor.mean, wide)
    return Int4Linear(short, scale, fitting, bias)


def _rounded(
    weight: np.ndarray, covariance: np.ndarray, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a weight as int8 [k, n], and their scales [k / group, n]."""
    scale = group_scales(weight, group, np.diag(covariance))
    short = round_in_order(weight, scale, covariance, -8, 7)
    return short, fit_scales(short, weight, covariance, len(scale))
