"""Weights and biases in few bits, and factors that move reach into weights."""

import numpy as np
import pytest

from pocketformer.compiler.quantization.bias import corrected
from pocketformer.compiler.quantization.smooth import equalizing, smoothing
from pocketformer.compiler.quantization.weights import (
    channel_scales,
    group_of,
    group_scales,
    power_of_two,
    round_channels,
    round_groups,
    table_of,
)
from tests.numerics.tolerance import TOLERANCE


def normal(*shape):
    return np.random.default_rng().normal(size=shape).astype("float32")


def near(found, wanted):
    limit = TOLERANCE["float32"] * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("scales", ["float", "power_of_two"])
def test_weights_of_a_channel_are_within_half_a_step(scales):
    weight = normal(40, 6) * np.array([1, 100, 0, 1e-3, 1, 1], "float32")
    scale = channel_scales(weight, scales)
    short = round_channels(weight, scale)
    assert short.dtype == np.int8
    assert (np.abs(short * scale - weight) <= scale / 2 * 1.001).all()
    assert np.abs(short).max(axis=0)[[0, 1, 3]].min() >= (127 if scales == "float" else 63)


def test_powers_of_two_are_the_next_ones():
    scale = np.abs(normal(50)) + 0.01
    found = power_of_two(scale)
    assert (np.log2(found) % 1 == 0).all()
    assert ((found >= scale) & (found < 2 * scale)).all()


def test_groups_of_four_bits_beat_those_scaled_by_the_greatest():
    weight = normal(64, 30)
    scale = group_scales(weight, 32)
    short = round_groups(weight, scale)
    assert scale.shape == (2, 30)
    assert (short.min(), short.max()) == (-8, 7)
    plain = np.abs(weight.reshape(2, 32, 30)).max(axis=1) / 7
    errors = [
        np.square(np.repeat(s, 32, axis=0) * round_groups(weight, s) - weight).sum()
        for s in (scale, plain)
    ]
    assert errors[0] < 0.9 * errors[1]


def test_rows_that_count_more_are_closer():
    weight, counts = normal(32, 50), np.ones(32)
    counts[:8] = 100
    errors = []
    for share in (None, counts):
        scale = group_scales(weight, 32, share)
        off = round_groups(weight, scale) * scale - weight
        errors.append(np.square(off[:8]).sum())
    assert errors[1] < errors[0]


def test_a_group_of_zeros_stays_zero():
    weight = normal(64, 3)
    weight[:32, 1] = 0
    assert not round_groups(weight, group_scales(weight, 32))[:32, 1].any()


def test_groups_fall_back_to_a_part_that_fits():
    assert [group_of(size, 64) for size in (128, 96, 80, 24, 12)] == [64, 32, 16, 8, None]


@pytest.mark.parametrize(("bits", "group"), [(8, 48), (4, 16)])
def test_rows_of_a_table_are_within_a_step(bits, group):
    rows = normal(70, 48) * (1 + np.arange(70, dtype="float32"))[:, None]
    table = table_of(rows, bits, 32)
    assert (table.group, table.bits, table.scale.shape) == (group, bits, (70, 48 // group))
    scale = np.repeat(table.scale, group, axis=1)
    # a clipped value of 4 bits may be off by more than half a step
    assert (np.abs(table.rows * scale - rows) <= np.abs(scale) * (0.51 if bits == 8 else 4.5)).all()
    assert np.square(table.rows * scale - rows).mean() < 0.02 * np.square(rows).mean()


def test_a_corrected_bias_keeps_the_mean_of_results():
    x, weight, bias = normal(100, 12) + 1, normal(12, 5), normal(5)
    rounded_x, rounded_weight = np.rint(x * 2) / 2, np.rint(weight * 2) / 2
    found = corrected(bias, x.mean(axis=0), weight, rounded_x.mean(axis=0), rounded_weight)
    near((rounded_x @ rounded_weight + found).mean(axis=0), (x @ weight + bias).mean(axis=0))


def test_an_alpha_of_one_makes_the_reaches_of_activations_equal():
    most, weight = 1 + np.abs(normal(9)), normal(9, 4)
    most[:4] += 5
    found = smoothing(most, weight, 1.0)
    reach = most / found
    above = most >= np.median(most)
    near(reach[above], np.full(above.sum(), reach.max()))
    assert (reach[~above] < reach.max()).all()


def test_an_alpha_of_zero_makes_the_reaches_of_weights_equal():
    most, weight = 1 + np.abs(normal(9)), normal(9, 4)
    reach = np.abs(weight * smoothing(most, weight, 0.0)[:, None]).max(axis=1)
    near(reach, np.full(9, reach.max()))


def test_channels_without_values_or_weights_are_smoothed_by_finite_factors():
    most, weight = np.abs(normal(9)), normal(9, 4)
    most[2], weight[5] = 0, 0
    found = smoothing(most, weight, 0.5)
    assert (np.isfinite(found) & (found > 0)).all()


def test_equalized_channels_have_the_same_range_in_both_layers():
    before, weight = normal(6, 9) * np.arange(1, 10, dtype="float32"), normal(9, 4)
    s = equalizing(before, weight)
    first, second = np.abs(before / s).max(axis=0), np.abs(weight * s[:, None]).max(axis=1)
    near(first / second, np.full(9, first[0] / second[0]))
