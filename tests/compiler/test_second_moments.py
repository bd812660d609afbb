"""Second moments of what layers read: by blocks, within a budget, about the mean."""

from dataclasses import replace

import numpy as np
import pytest

from pocketformer.compiler.quantization import statistics
from pocketformer.compiler.quantization.decide import decide
from pocketformer.compiler.quantization.layers import LINEAR, Layer
from pocketformer.compiler.quantization.statistics import TensorStatistics, block_of
from pocketformer.compiler.recipe import Int4Weights, Int8
from tests.compiler.test_calibrate import calibrated
from tests.encoder import encoder, inputs

N = 24
TOKEN = Int8(calibration=(), activations="token", smooth=None)


def normal(*shape):
    return np.random.default_rng().normal(size=shape).astype("float32")


def dependent(rows, k):
    """Rows of k channels that depend on one another."""
    return normal(rows, k // 4) @ normal(k // 4, k) + 0.1 * normal(rows, k)


def weight_of(recipe, weight, x, block):
    """What `recipe` leaves of `weight` where blocks of so many channels have second moments."""
    tensor = TensorStatistics(x.shape[1], block)
    tensor.update(x)
    layer = Layer("fc", LINEAR, ("fc",), "x", weight)
    numbers = decide([layer], {"x": tensor}, lambda _: recipe).layers["fc"]
    if isinstance(recipe, Int8):
        return numbers.weight * numbers.weight_scale
    return numbers.weight * np.repeat(numbers.scale, numbers.group, axis=0)


def variance(x, found, weight):
    """Of the error of results, which a bias can make up for the mean of."""
    return float((x @ (found - weight)).var(axis=0).mean())


@pytest.mark.parametrize("recipe", [Int4Weights(), TOKEN], ids=["int4", "int8"])
def test_blocks_of_a_wide_layer_make_up_for_their_own_errors(recipe):
    x, weight = dependent(1000, 320), normal(320, N)
    errors = [
        variance(x, weight_of(recipe, weight, x, block), weight) for block in (4096, 128, 0)
    ]
    assert errors == sorted(errors)
    assert errors[1] < 0.8 * errors[2]


def test_a_bias_that_takes_the_mean_leaves_the_rounding_to_the_variance():
    weight = normal(64, N)
    x = dependent(900, 64) + 30 * normal(64)
    errors = [
        variance(x, weight_of(replace(TOKEN, bias_correction=corrected), weight, x, 64), weight)
        for corrected in (True, False)
    ]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize(
    ("channels", "block"),
    [([384] * 18 + [1536] * 6, 4096), ([11008], 4096), ([4096] * 100, 512), ([4096] * 600, 0)],
    ids=["minilm", "wide", "deep", "too deep"],
)
def test_blocks_are_the_widest_within_the_budget(channels, block):
    assert block_of(channels) == block
    taken = [
        sum(8 * k * min(k, width) for k in channels) for width in (block, 2 * max(block, 64))]
    assert taken[0] <= statistics.BUDGET
    assert block == statistics.WIDEST or taken[1] > statistics.BUDGET


@pytest.mark.parametrize("budget", [0, statistics.BUDGET])
def test_calibration_keeps_to_the_budget(budget, monkeypatch):
    monkeypatch.setattr(statistics, "BUDGET", budget)
    found = calibrated(encoder(), [inputs(1, 5)], recipe=Int4Weights(calibration=[inputs(1, 5)]))
    read = [found.statistics[layer.x] for layer in found.layers if layer.kind == LINEAR]
    assert read
    assert all(bool(each.blocks) == (budget > 0) for each in read)
