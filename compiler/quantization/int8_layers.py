"""Linear layers in int8: the factors of what they read, their rounded weights and biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pocketformer.compiler.quantization.bias import corrected
from pocketformer.compiler.quantization.gptq import round_in_order
from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.numbers import Activation, DynamicLinear, StaticLinear
from pocketformer.compiler.quantization.observers import (
    by_row,
    range_of,
    rounded,
    scale_and_zero,
)
from pocketformer.compiler.quantization.smooth import (
    equalizable,
    equalizing,
    smoothing,
    to_powers_of_two,
)
from pocketformer.compiler.quantization.statistics import TensorStatistics
from pocketformer.compiler.quantization.weights import (
    channel_scales,
    power_of_two,
    round_channels,
)
from pocketformer.compiler.recipe import AUTO, Int8

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)    # those that "auto" compares, with no smoothing at all
ROWS = 256                                 # of the sample, on which it compares them


@dataclass(frozen=True, eq=False)
class Reading:
    """How layers read a tensor: x / `smooth` in int8, by one range, or where that is None by one
    for each row."""

    smooth: np.ndarray | None    # float32 [k]
    scale: float | None
    zero: int = 0

    def rounded(self, rows: np.ndarray) -> np.ndarray:
        """What is left of x / smooth, for `rows` [r, k] of x."""
        scaled = self.smoothed(rows)
        if self.scale is None:
            return by_row(scaled)
        short = rounded(scaled, self.scale, self.zero) - self.zero
        return np.asarray(short * np.float32(self.scale))

    def smoothed(self, rows: np.ndarray) -> np.ndarray:
        """`rows` [..., k] / smooth."""
        return rows if self.smooth is None else rows / self.smooth

    def weights(self, weight: np.ndarray) -> np.ndarray:
        """`weight` [k, n] times smooth."""
        return weight if self.smooth is None else weight * self.smooth[:, None]

    def numbers(
        self, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray | None
    ) -> StaticLinear | DynamicLinear:
        """Of a layer that reads so, with int8 weights [k, n] times `scale` [n]."""
        smooth = np.ones(1, np.float32) if self.smooth is None else self.smooth
        factor = (1.0 / (smooth * np.float32(self.scale or 1.0))).astype(np.float32)
        if self.scale is None:
            return DynamicLinear(None if self.smooth is None else factor, weight, scale, bias)
        scale = (scale * np.float32(self.scale)).astype(np.float32)
        return StaticLinear(Activation(factor, self.zero), weight, scale, bias)


def int8_layers(
    layers: Sequence[Layer], tensor: TensorStatistics | None, recipe: Int8,
    before: Layer | None = None,
) -> dict[str, StaticLinear | DynamicLinear]:
    """The numbers of linear `layers` that read one tensor, by key.

    `before` is the linear layer that computes the tensor, if one does. Without statistics of the
    tensor, rows have ranges of their own and weights are rounded to the nearest.
    """
    weight = np.concatenate([layer.weight for layer in layers if layer.weight is not None], axis=1)
    reading = Reading(None, None)
    if tensor is not None:
        reading = _best_reading(layers, weight, tensor, recipe, before)
    moved = reading.weights(weight)
    scale = channel_scales(moved, recipe.scales)
    if tensor is None:
        short = round_channels(moved, scale)
        biases = [layer.bias for layer in layers]
    else:
        rounding = reading.rounded(tensor.rows) - reading.smoothed(tensor.rows)
        short = _round(moved, scale, tensor, reading, rounding, recipe.bias_correction)
        biases = _biases(layers, moved, short * scale, tensor, reading, rounding, recipe)
    found: dict[str, StaticLinear | DynamicLinear] = {}
    for layer, columns, bias in zip(layers, _columns(layers), biases, strict=True):
        found[layer.key] = reading.numbers(short[:, columns].copy(), scale[columns], bias)
    return found


def _best_reading(
    layers: Sequence[Layer], weight: np.ndarray, tensor: TensorStatistics, recipe: Int8,
    before: Layer | None,
) -> Reading:
    """The one with the least squared error of the layers' results, on some of the sampled rows."""
    candidates = [
        _reading(smooth, weight, tensor, recipe)
        for smooth in _smoothings(layers, weight, tensor, recipe, before)
    ]
    if len(candidates) == 1:
        return candidates[0]
    rows = tensor.rows[:ROWS]
    results = rows @ weight

    def error(reading: Reading) -> float:
        moved = reading.weights(weight)
        scale = channel_scales(moved, recipe.scales)
        off = reading.rounded(rows) @ (round_channels(moved, scale) * scale) - results
        return float(np.square(off - off.mean(axis=0) * recipe.bias_correction).sum())

    return min(candidates, key=error)


def _smoothings(
    layers: Sequence[Layer], weight: np.ndarray, tensor: TensorStatistics, recipe: Int8,
    before: Layer | None,
) -> list[np.ndarray | None]:
    found: list[np.ndarray | None]
    free = [layer.normed if recipe.by_token else layer.smoothable for layer in layers]
    if not all(free):
        return [None]
    if recipe.equalize and before is not None and equalizable(layers[0], before):
        assert before.weight is not None
        found = [equalizing(before.weight, weight)]
    elif recipe.smooth is None:
        return [None]
    elif recipe.smooth == AUTO:
        found = [None, *(smoothing(tensor.most, weight, alpha) for alpha in ALPHAS)]
    else:
        found = [smoothing(tensor.most, weight, float(recipe.smooth))]
    if recipe.scales == "power_of_two":
        found = [None if s is None else to_powers_of_two(s) for s in found]
    return found


def _reading(
    smooth: np.ndarray | None, weight: np.ndarray, tensor: TensorStatistics, recipe: Int8
) -> Reading:
    if recipe.by_token:
        return Reading(smooth, None)
    # what the error of a channel of x / smooth counts for in the results
    counts = None if smooth is None else np.square(weight).sum(axis=1) * np.square(smooth)
    low, high = range_of(tensor, recipe.observer, smooth, counts)
    scale, zero = scale_and_zero(low, high)
    if recipe.scales == "power_of_two":
        scale = float(power_of_two(np.float32(scale)))
        zero = int(np.clip(np.rint(-128 - low / scale), -128, 127))
    return Reading(smooth, scale, zero)


def _columns(layers: Sequence[Layer]) -> list[slice]:
    """Where each layer's columns lie among those of all."""
    ends = np.cumsum([layer.weight.shape[1] for layer in layers if layer.weight is not None])
    return [slice(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _round(
    weight: np.ndarray, scale: np.ndarray, tensor: TensorStatistics, reading: Reading,
    rounding: np.ndarray, centred: bool,
) -> np.ndarray:
    """`weight` in int8: by GPTQ where second moments of x are known, else to the nearest.

    The error of a result is x @ (w_q - w) + r @ w_q, with the `rounding` r of x. Where the bias
    takes its mean (`centred`), what counts is its variance, which the covariance of x tells, and
    the variance of r; else their mean squares. r adds about that to the diagonal: it hardly
    depends on x, nor on that of other channels.
    """
    if not tensor.blocks:
        return round_channels(weight, scale)
    noise = rounding.var(axis=0) if centred else np.square(rounding).mean(axis=0)
    smooth = np.ones(len(weight), np.float32) if reading.smooth is None else reading.smooth
    parts = []
    for rows, moment in zip(tensor.blocks, tensor.moments(centred), strict=True):
        whole = moment / np.outer(smooth[rows], smooth[rows])
        whole[np.diag_indices(len(whole))] += noise[rows]
        parts.append(round_in_order(weight[rows], scale[None], whole, -127, 127))
    return np.concatenate(parts)


def _biases(
    layers: Sequence[Layer], weight: np.ndarray, rounded: np.ndarray, tensor: TensorStatistics,
    reading: Reading, rounding: np.ndarray, recipe: Int8,
) -> list[np.ndarray | None]:
    if not recipe.bias_correction:
        return [layer.bias for layer in layers]
    mean = reading.smoothed(tensor.mean)
    means = mean, mean + rounding.mean(axis=0)
    return [
        corrected(layer.bias, means[0], weight[:, columns], means[1], rounded[:, columns])
        for layer, columns in zip(layers, _columns(layers), strict=True)
    ]
