"""What layers compute with: decided from their weights and the calibration's statistics."""

from dataclasses import replace

import numpy as np
import pytest

from pocketformer.compiler.build import decide_layers
from pocketformer.compiler.errors import BadCalibration
from pocketformer.compiler.quantization.calibrate import Calibrated
from pocketformer.compiler.quantization.decide import decide, needs_second
from pocketformer.compiler.quantization.layers import ATTENTION, LINEAR, LOOKUP, Layer
from pocketformer.compiler.quantization.numbers import (
    CastLayer,
    DynamicAttention,
    DynamicLinear,
    Int4Linear,
    Int8Attention,
    StaticLinear,
)
from pocketformer.compiler.quantization.statistics import TensorStatistics
from pocketformer.compiler.recipe import BFloat16, Float16, Float32, Int4Weights, Int8
from tests.numerics.tolerance import TOLERANCE

K, N = 64, 24
STATIC, TOKEN = Int8(calibration=()), Int8(calibration=(), activations="token")


def normal(*shape):
    return np.random.default_rng().normal(size=shape).astype("float32")


def rows():
    """Rows of K channels that depend on one another; a few are far larger, as in transformers."""
    wide = 1 + 30 * (np.arange(K) % 16 == 3)
    return ((normal(900, 16) @ normal(16, K) + normal(900, K)) * wide + wide).astype("float32")


def linear(key="fc", x="x", **options):
    options = {"bias": normal(N), "smoothable": True, "normed": True} | options
    return Layer(key, LINEAR, (f"/{key}/MatMul",), x, normal(K, N), **options)


def seen(x, block=4096):
    tensor = TensorStatistics(x.shape[1], block)
    for batch in np.array_split(x, 3):
        tensor.update(batch)
    return tensor


def decided(layer, recipe, **statistics):
    return decide([layer], statistics, lambda _: recipe).layers.get(layer.key)


def result(numbers, x):
    """What a layer computes with `numbers`, for x [rows, K]."""
    if isinstance(numbers, Int4Linear):
        weight = numbers.weight * np.repeat(numbers.scale, numbers.group, axis=0)
        return x @ weight + numbers.bias
    if isinstance(numbers, StaticLinear):
        zero = numbers.x.zero
        q = np.clip(np.rint(x * numbers.x.factor) + zero, -128, 127) - zero
    else:
        x = x if numbers.factor is None else x * numbers.factor
        low, high = np.minimum(x.min(1), 0)[:, None], np.maximum(x.max(1), 0)[:, None]
        scale = (high - low) / 255
        zero = np.rint(-128 - low / scale)
        q = (np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale
    return q @ numbers.weight.astype("float32") * numbers.weight_scale + numbers.bias


def error(layer, numbers, x):
    wanted = x @ layer.weight + layer.bias
    return np.square(result(numbers, x) - wanted).mean() / wanted.var()


@pytest.mark.parametrize("recipe", [STATIC, TOKEN, Int8(dynamic=True)], ids=str)
def test_int8_layers_compute_nearly_the_same(recipe):
    layer, x = linear(), rows()
    statistics = {} if recipe.dynamic else {"x": seen(x)}
    numbers = decided(layer, recipe, **statistics)
    assert isinstance(numbers, StaticLinear if recipe is STATIC else DynamicLinear)
    assert numbers.weight.dtype == np.int8
    assert error(layer, numbers, x) < 5e-3


@pytest.mark.parametrize("recipe", [STATIC, TOKEN], ids=["static", "token"])
def test_smoothing_and_gptq_lower_the_error(recipe):
    errors = []
    for _ in range(10):     # what a single layer gains by GPTQ varies by half of it
        layer, x = linear(), rows()
        plain = decided(layer, replace(recipe, smooth=None), x=seen(x, block=0))
        smooth = decided(layer, recipe, x=seen(x, block=0))
        best = decided(layer, recipe, x=seen(x))
        errors.append([error(layer, numbers, x) for numbers in (best, smooth, plain)])
    best, smooth, plain = np.exp(np.log(errors).mean(axis=0))
    assert best < smooth < plain
    assert best < 0.7 * plain


def test_bias_correction_keeps_the_mean():
    layer, x = linear(), rows()[:400]    # all of them are in the sample
    found = [
        np.abs((result(numbers, x) - x @ layer.weight - layer.bias).mean(axis=0)).mean()
        for correction in (True, False)
        for numbers in [decided(layer, replace(STATIC, bias_correction=correction, smooth=None),
                                x=seen(x, block=0))]
    ]
    assert found[0] < 0.1 * found[1]


def test_layers_that_read_one_tensor_keep_to_their_own_recipes():
    layers, x = [linear("a"), linear("b")], rows()
    plain = replace(STATIC, bias_correction=False)
    for recipes in ({"a": plain, "b": STATIC}, {"a": STATIC, "b": plain}):
        found = decide(layers, {"x": seen(x)}, lambda layer, by=recipes: by[layer.key]).layers
        for layer in layers:
            moved = (found[layer.key].bias != layer.bias).any()
            assert moved == recipes[layer.key].bias_correction


@pytest.mark.parametrize("recipe", [STATIC, Int8(dynamic=True), Int4Weights()], ids=str)
@pytest.mark.parametrize("kind", [LINEAR, LOOKUP])
def test_weights_that_are_not_finite_are_refused(recipe, kind):
    layer = linear() if kind == LINEAR else Layer("t", LOOKUP, ("/t/Gather",), "", normal(50, K))
    layer.weight[3, 5] = np.nan
    with pytest.raises(BadCalibration, match=f"the weight of {layer.name} has NaN or infinity"):
        decided(layer, recipe, x=seen(rows()))


def test_layers_that_read_one_tensor_share_its_factor_and_zero():
    layers = [linear("q"), linear("k"), linear("v")]
    recipes = {"q": STATIC, "k": STATIC, "v": Float32()}
    found = decide(layers, {"x": seen(rows())}, lambda layer: recipes[layer.key]).layers
    assert list(found) == ["q", "k"]
    assert found["q"].x.factor.shape == (K,)
    np.testing.assert_array_equal(found["q"].x.factor, found["k"].x.factor)
    assert found["q"].x.zero == found["k"].x.zero
    assert (found["q"].weight != found["k"].weight).any()


def test_factors_are_by_channel_only_where_a_store_takes_them():
    x = seen(rows())
    assert decided(linear(smoothable=False), STATIC, x=x).x.factor.shape == (1,)
    assert decided(linear(), TOKEN, x=x).factor.shape == (K,)
    assert decided(linear(normed=False), TOKEN, x=x).factor is None


def test_logarithmic_scales_are_powers_of_two():
    layer, x = linear(), rows()
    numbers = decided(layer, replace(STATIC, scales="power_of_two"), x=seen(x))
    for scales in (numbers.weight_scale, numbers.x.factor):
        assert (np.log2(scales) % 1 == 0).all()
    assert error(layer, numbers, x) < 2e-2


def test_neighbours_are_equalized_and_others_smoothed():
    x, recipe = seen(rows()), replace(STATIC, equalize=True)
    after = linear("after", x="y", before="before")
    factors = []
    for activation in ("relu", "gelu"):
        before = replace(
            linear("before", bias=None), weight=normal(K, K), activation=activation)
        found = decide([before, after], {"x": x, "y": x}, lambda _: recipe).layers
        factors.append(found["after"].x.factor)
        if activation == "relu":
            first = np.abs(before.weight).max(axis=0) * factors[0]
            second = np.abs(after.weight).max(axis=1) / factors[0]
            np.testing.assert_allclose(first / second, first[0] / second[0], rtol=1e-4)
    np.testing.assert_array_equal(factors[1], decided(after, STATIC, y=x).x.factor)


def test_int4_with_calibration_beats_the_nearest_numbers():
    layer, x = linear(), rows()
    nearest, best = decided(layer, Int4Weights()), decided(layer, Int4Weights(), x=seen(x))
    assert (best.weight.min(), best.weight.max(), best.scale.shape) == (-8, 7, (2, N))
    assert error(layer, best, x) < 0.7 * error(layer, nearest, x) < 0.02


@pytest.mark.parametrize("channels", [4, K])
def test_channels_that_are_far_from_zero_do_not_hide_the_others(channels):
    layer, x = linear(), rows()
    x[:, :channels] += 3000
    tensor = seen(x)
    np.testing.assert_allclose(
        next(tensor.moments(True)), np.cov(x.T.astype("float64"), bias=True), rtol=0,
        atol=TOLERANCE["float32"] * x.std() ** 2)
    nearest, best = (decided(layer, Int4Weights(), **found) for found in ({}, {"x": tensor}))
    assert error(layer, best, x) < 0.7 * error(layer, nearest, x)


def test_int4_takes_smaller_groups_where_k_asks_for_them():
    assert decided(replace(linear(), weight=normal(40, N)), Int4Weights(group=64)).group == 8
    assert decided(replace(linear(), weight=normal(12, N)), Int4Weights()) is None


def test_attention_has_symmetric_ranges():
    layer = Layer("a", ATTENTION, ("softmax",), reads=("q", "k", "v"))
    values = {name: rows() * scale for name, scale in (("q", 1), ("k", 2), ("v", 3))}
    statistics = {name: seen(x, block=0) for name, x in values.items()}
    found = decided(layer, replace(STATIC, observer="minmax"), **statistics)
    scales = (found.query_scale, found.key_scale, found.value_scale)
    assert isinstance(found, Int8Attention)
    np.testing.assert_allclose(scales, [np.abs(x).max() / 127 for x in values.values()], rtol=1e-6)
    assert decided(layer, replace(STATIC, attention="bfloat16")) == CastLayer("bfloat16")
    assert decided(layer, replace(STATIC, attention="float32"), **statistics) is None


def test_attention_without_calibration_finds_its_own_ranges():
    layer = Layer("a", ATTENTION, ("softmax",), reads=("q", "k", "v"))
    assert decided(layer, Int8(dynamic=True)) == DynamicAttention()
    assert decided(layer, Int8(dynamic=True, attention="bfloat16")) == CastLayer("bfloat16")
    assert decided(layer, Int8(dynamic=True, attention="float32")) is None


def test_tables_are_int8_or_int4_or_stay():
    layer = Layer("t", LOOKUP, ("Gather",), weight=normal(40, 32))
    assert decided(layer, STATIC).bits == 8
    assert decided(layer, Int4Weights()).bits == 4
    assert decided(layer, Int4Weights(embeddings="int8")).bits == 8
    assert decided(layer, replace(STATIC, embeddings="float32")) is None
    assert decided(layer, BFloat16()) is None


def test_casts_are_told_and_float32_is_left_out():
    assert decided(linear(), BFloat16()) == CastLayer("bfloat16")
    assert decided(linear(), Float16()) == CastLayer("float16")
    assert decided(linear(), Float32()) is None


def test_second_moments_are_asked_for_by_recipes_that_round_weights():
    assert needs_second(linear(), STATIC)
    assert needs_second(linear(), Int4Weights())
    assert not needs_second(linear(), BFloat16())
    assert not needs_second(Layer("t", LOOKUP, (), weight=normal(4, 8)), STATIC)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((5, K), np.nan, "float32"), "NaN or infinity as the input of /fc/MatMul"),
        (np.zeros((5, K), "float32"), "nothing but 0 as the input of /fc/MatMul"),
        (np.empty((0, K), "float32"), "not reached the input of /fc/MatMul"),
        (None, "not reached the input of /fc/MatMul"),
    ],
    ids=["nan", "constant", "empty", "missing"],
)
def test_activations_that_tell_nothing_are_refused(x, message):
    statistics = {} if x is None else {"x": seen(x)}
    with pytest.raises(BadCalibration, match=message):
        decided(linear(), STATIC, **statistics)


@pytest.mark.parametrize("k", [30, 32])
def test_a_recipe_that_leaves_all_layers_in_float32_is_warned_of(k, caplog):
    layer = Layer("a", LINEAR, ("a",), x="x", weight=normal(k, N))
    found = decide_layers(Calibrated((layer,), {}), Int4Weights())
    assert bool(found.layers) == (k == 32)
    assert ("the recipe int4 leaves all layers in float32" in caplog.text) == (k == 30)
