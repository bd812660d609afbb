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
    mean; without, to the nearest.
    """
    assert layer.weight is not None
    fitting = group_of(len(layer.weight), group)
    if fitting is None:
        return None
    if tensor is None or (second := tensor.covariance) is None:
        scale = group_scales(layer.weight, fitting)
        return Int4Linear(round_groups(layer.weight, scale), scale, fitting, layer.bias)
    mean = tensor.mean
    scale = group_scales(layer.weight, fitting, np.diag(second))
    short = round_in_order(layer.weight, scale, second, -8, 7)
    scale = fit_scales(short, layer.weight, second, len(scale))
    wide = short * np.repeat(scale, fitting, axis=0)
    bias = corrected(layer.bias, mean, layer.weight, mean, wide)
    return Int4Linear(short, scale, fitting, bias)
