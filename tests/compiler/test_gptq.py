"""GPTQ: the rounding of a weight makes up for the errors of those before it."""

import numpy as np
import pytest

from pocketformer.compiler.quantization.gptq import fit_scales, round_in_order
from pocketformer.compiler.quantization.weights import (
    channel_scales,
    group_scales,
    round_channels,
    round_groups,
)
from tests.numerics.tolerance import TOLERANCE


def normal(*shape):
    return np.random.default_rng().normal(size=shape).astype("float32")


def near(found, wanted):
    limit = TOLERANCE["float32"] * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit)


def mixed(rows, k):
    """Rows whose k channels depend on one another."""
    return normal(rows, k // 4) @ normal(k // 4, k) + 0.1 * normal(rows, k)


def test_gptq_rounds_to_the_nearest_where_channels_are_independent():
    weight = normal(50, 7)
    scale = channel_scales(weight)
    found = round_in_order(weight, scale[None], np.diag(1 + np.abs(normal(50))), -127, 127)
    np.testing.assert_array_equal(found, round_channels(weight, scale))


@pytest.mark.parametrize("k", [32, 160])
def test_gptq_halves_the_error_of_results_where_channels_depend_on_one_another(k):
    x, weight = mixed(1000, k), normal(k, 24)
    second = x.T @ x / len(x)
    scale = group_scales(weight, 32)
    nearest = round_groups(weight, scale)
    ordered = round_in_order(weight, scale, second, -8, 7)
    fitted = fit_scales(ordered, weight, second, len(scale))

    def error(short, by):
        return np.square(x @ (short * np.repeat(by, 32, axis=0) - weight)).sum()

    assert error(ordered, scale) < 0.5 * error(nearest, scale)
    assert error(ordered, fitted) < error(ordered, scale)
    assert (ordered.min(), ordered.max()) == (-8, 7)


def test_scales_that_are_already_the_best_stay():
    x = mixed(500, 64)
    short = np.random.default_rng().integers(-8, 8, (64, 5)).astype("int8")
    scale = np.abs(normal(2, 5)) + 0.5
    weight = short * np.repeat(scale, 32, axis=0)
    near(fit_scales(short, weight, x.T @ x / len(x), 2), scale)
