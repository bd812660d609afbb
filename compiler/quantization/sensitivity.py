"""How much each layer suffers when it alone is quantised: an estimate on the calibration's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ml_dtypes  # noqa: F401 - teaches numpy the name bfloat16
import numpy as np

from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.numbers import (
    Activation,
    CastLayer,
    DynamicAttention,
    DynamicLinear,
    Int4Linear,
    Int8Attention,
    Numbers,
    Quantization,
    StaticLinear,
    Table,
)
from pocketformer.compiler.quantization.observers import by_row
from pocketformer.compiler.quantization.statistics import Statistics


def sensitivities(
    layers: Sequence[Layer], statistics: Statistics, quantization: Quantization
) -> dict[str, float]:
    """Of each quantised layer, by key, the noise of its output as a part of the signal.

    That is 10^(-SQNR / 10), with all that the layer reads in float32. Linear layers compute with
    the sampled rows of what they read, before their activation; without rows, with numbers of a
    normal distribution. Of attention it is the noise of queries, keys and values together, by the
    ranges of all heads where the kernel finds them; of a lookup table that of its rows.
    """
    return {
        layer.key: _noise(layer, statistics, quantization.layers[layer.key])
        for layer in layers
        if layer.key in quantization.layers
    }


def _noise(layer: Layer, statistics: Statistics, numbers: Numbers) -> float:
    match numbers:
        case Table():
            assert layer.weight is not None
            return ratio(layer.weight, dequantized_table(numbers))
        case Int8Attention() | DynamicAttention():
            return sum(
                ratio(rows, np.clip(np.rint(rows / scale), -127, 127) * scale)
                for rows, scale in _read(layer, statistics, numbers)
            )
        case CastLayer() if layer.weight is None:
            return sum(
                ratio(statistics[key].rows, _cast(statistics[key].rows, numbers.dtype))
                for key in layer.reads if key in statistics
            )
    assert layer.weight is not None
    if layer.x in statistics and len(statistics[layer.x].rows):
        rows = statistics[layer.x].rows
    else:
        rows = np.random.default_rng(0).standard_normal((64, len(layer.weight)), np.float32)
    bias = 0.0 if layer.bias is None else layer.bias
    return ratio(rows @ layer.weight + bias, linear_output(layer, numbers, rows))


def _read(
    layer: Layer, statistics: Statistics, numbers: Int8Attention | DynamicAttention
) -> Iterator[tuple[np.ndarray, float]]:
    """Rows that attention reads, and their scales."""
    scales: tuple[float | None, ...] = (None,) * len(layer.reads)
    if isinstance(numbers, Int8Attention):
        scales = numbers.query_scale, numbers.key_scale, numbers.value_scale
    for key, scale in zip(layer.reads, scales, strict=True):
        if key in statistics:
            rows = statistics[key].rows
            yield rows, scale or float(np.abs(rows).max(initial=0.0)) / 127 or 1.0


def linear_output(layer: Layer, numbers: Numbers, rows: np.ndarray) -> np.ndarray:
    """What a linear layer gives for `rows` [r, k] before its activation: float32 [r, n]."""
    assert layer.weight is not None
    bias = layer.bias
    match numbers:
        case StaticLinear(x, weight, scale, own):
            sums = (quantized(rows, x) - np.float32(x.zero)) @ weight.astype(np.float32)
            bias, products = own, sums * scale
        case DynamicLinear(factor, weight, scale, own):
            values = rows if factor is None else rows * factor
            bias, products = own, by_row(values) @ weight.astype(np.float32) * scale
        case Int4Linear(weight, scale, group, own):
            bias, products = own, rows @ (weight * np.repeat(scale, group, axis=0))
        case CastLayer(dtype):
            products = _cast(rows, dtype) @ _cast(layer.weight, dtype)
        case _:
            raise TypeError(f"{type(numbers).__name__} is no linear layer's")
    output: np.ndarray = products if bias is None else products + bias
    return output


def quantized(rows: np.ndarray, x: Activation) -> np.ndarray:
    """The integers of `rows`, as float32."""
    return np.clip(np.rint(rows * x.factor) + np.float32(x.zero), -128, 127)


def dequantized_table(table: Table) -> np.ndarray:
    """float32 [count, size]."""
    return table.rows * np.repeat(table.scale, table.group, axis=1)


def ratio(expected: np.ndarray, found: np.ndarray) -> float:
    """The power of found - expected as a part of that of expected."""
    noise = float(np.square(found - expected, dtype=np.float64).sum())
    if noise == 0:
        return 0.0
    signal = float(np.square(expected, dtype=np.float64).sum())
    return noise / signal if signal else float("inf")


def _cast(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(dtype).astype(np.float32)
