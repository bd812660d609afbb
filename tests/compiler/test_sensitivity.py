"""The estimate of how much each layer suffers, held to what it says it is."""

import numpy as np
import pytest

from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.quantization.numbers import (
    Activation,
    CastLayer,
    DynamicAttention,
    DynamicLinear,
    Int4Linear,
    Int8Attention,
    Quantization,
    StaticLinear,
    Table,
)
from pocketformer.compiler.quantization.sensitivity import sensitivities
from pocketformer.compiler.quantization.statistics import TensorStatistics

K, N, ROWS = 64, 48, 200


def rows() -> np.ndarray:
    return np.random.default_rng().standard_normal((ROWS, K), np.float32)


def statistics(**tensors: np.ndarray) -> dict[str, TensorStatistics]:
    found = {}
    for name, array in tensors.items():
        found[name] = TensorStatistics(array.shape[-1])
        found[name].update(array)
    return found


def layer(kind: str = "linear", **fields: object) -> Layer:
    rng = np.random.default_rng()
    basis = {
        "weight": rng.standard_normal((K, N), np.float32),
        "bias": rng.standard_normal(N, np.float32),
        "x": "x",
    }
    return Layer(key="a", kind=kind, names=("a",), **(basis | fields))


def noise_of(each: Layer, numbers: object, **tensors: np.ndarray) -> float:
    found = sensitivities([each], statistics(**tensors), Quantization({"a": numbers}))
    assert list(found) == ["a"]
    return found["a"]


def weights_in_int8(each: Layer) -> tuple[np.ndarray, np.ndarray]:
    scale = np.abs(each.weight).max(axis=0) / 127
    return np.rint(each.weight / scale).astype(np.int8), scale


def static(each: Layer, x: np.ndarray, levels: int = 255) -> StaticLinear:
    """Quantised to `levels` steps of the range of x."""
    weight, weight_scale = weights_in_int8(each)
    scale = np.float32((x.max() - x.min()) / levels)
    zero = int(np.rint(-128 - x.min() / scale)) if levels == 255 else 0
    factor = np.array([1 / scale], np.float32)
    return StaticLinear(Activation(factor, zero), weight, weight_scale * scale, each.bias)


def test_eight_bits_cost_a_linear_layer_about_forty_decibel():
    each, x = layer(), rows()
    noise = noise_of(each, static(each, x), x=x)
    assert 35 < -10 * np.log10(noise) < 50


def test_half_the_steps_make_four_times_the_noise():
    each, x = layer(), rows()
    coarse = [noise_of(each, static(each, x, levels), x=x) for levels in (30, 15)]
    assert coarse[1] / coarse[0] == pytest.approx(4, rel=0.35)


def test_a_factor_for_each_channel_is_undone_by_the_weights():
    each, x = layer(), rows()
    s = np.random.default_rng().uniform(0.5, 2, K).astype(np.float32)
    smoothed = Layer(**{**vars(each), "weight": each.weight * s[:, None]})
    weight, weight_scale = weights_in_int8(smoothed)
    scale = np.abs(x / s).max() / 127
    numbers = StaticLinear(
        Activation((1 / (scale * s)).astype(np.float32), 0), weight, weight_scale * scale, each.bias
    )
    assert noise_of(each, numbers, x=x) < 2e-3
    by_row = DynamicLinear(1 / s, weight, weight_scale, each.bias)
    assert noise_of(each, by_row, x=x) < 2e-3


def test_by_row_is_better_where_rows_have_very_different_ranges():
    each, x = layer(), rows()
    x[::2] *= 0.01
    x[0] *= 0      # a row of nothing but zeros
    by_row = noise_of(each, DynamicLinear(None, *weights_in_int8(each), each.bias), x=x)
    whole = noise_of(each, static(each, x), x=x)
    assert 1e-6 < by_row < whole * 1.5


def test_four_bits_cost_more_than_eight_and_bfloat16_least():
    each, x = layer(bias=None), rows()
    scale = np.abs(each.weight.reshape(2, 32, N)).max(axis=1) / 7
    weight = np.rint(each.weight / np.repeat(scale, 32, axis=0)).astype(np.int8)
    four = noise_of(each, Int4Linear(weight, scale, 32, None), x=x)
    eight = noise_of(each, static(each, x), x=x)
    bfloat16 = noise_of(each, CastLayer("bfloat16"), x=x)
    assert four > 4 * eight > 4 * bfloat16 > 0


def test_the_weights_tell_where_no_rows_were_seen():
    each = layer()
    noise = noise_of(each, DynamicLinear(None, *weights_in_int8(each), each.bias))
    assert 1e-6 < noise < 1e-2


def test_attention_suffers_by_all_that_it_reads():
    q, k, v = rows(), rows(), rows()
    each = layer("attention", weight=None, bias=None, x="", reads=("q", "k", "v"))
    fine = [float(np.abs(array).max()) / 127 for array in (q, k, v)]
    alone = noise_of(each, Int8Attention(*fine), q=q, k=k, v=v)
    coarse = noise_of(each, Int8Attention(*fine[:2], fine[2] * 8), q=q, k=k, v=v)
    assert 1e-6 < alone < 1e-3 < coarse
    assert noise_of(each, DynamicAttention(), q=q, k=k, v=v) == pytest.approx(alone, rel=1e-3)
    assert noise_of(each, CastLayer("bfloat16"), q=q, k=k, v=v) < alone


def test_a_table_suffers_by_its_rows():
    table = rows()
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    each = layer("lookup", weight=table, bias=None, x="")
    found = Table(np.rint(table / scale).astype(np.int8), scale, 8, K)
    assert 1e-6 < noise_of(each, found) < 1e-3


def test_layers_in_float32_are_left_out():
    assert sensitivities([layer()], {}, Quantization()) == {}
