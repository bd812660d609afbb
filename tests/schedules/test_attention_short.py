"""Attention kernels of int8 and bfloat16 inputs and outputs against float64."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketformer.schedules.cpu.attention import FusedAttention
from pocketformer.schedules.workloads import Attention
from tests.numerics.tolerance import TOLERANCE
from tests.schedules.running import (
    INSTRUCTIONS,
    TABLE,
    call,
    call_here,
    compiled_here,
    instructions,
    kernels,
    random,
    stand_in,
)
from tests.schedules.test_attention import LOWEST, attention

FORM = Attention(None, None, None, 2, 2, 8, 8, 1.0, dtype="int8", in_dtype="int8")
FOURS = [fours for fours in instructions(FORM, "int8") if "mmla" not in fours.values[0]]
KERNELS = kernels(FORM)
BFLOAT16 = kernels(FORM, "avx512", "neon") + [
    pairs for pairs in instructions(Attention(None, None, None, 2, 2, 8, 8, 1.0, dtype="bfloat16"),
                                    "bfloat16") if "bfmmla" not in pairs.values[0]]
STEP = 1 / 40       # of values


def integers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(-127, 128, shape).astype("int8")


def check(isa, sizes, heads=(2, 2), widths=(8, 8), symbolic=False, mask=None, causal=False,
          packed=False, dtype="int8", out_dtype="float32", spread=1.5):
    """`spread` is the scores' standard deviation."""
    (batch, q_len, kv_len), (h, hkv), (d, dv) = sizes, heads, widths
    known = (None, None, None) if symbolic else sizes
    flags = None if mask is None else tuple(size != 1 for size in mask.shape)
    mask_dtype = "float32" if mask is None or mask.dtype != bool else "bool"
    scale = 1.0 if dtype == "int8" else float(spread / d**0.5)
    workload = Attention(*known, h, hkv, d, dv, scale, flags, mask_dtype, causal, packed, dtype,
                         dtype, out_dtype)
    shapes = [(batch, q_len, h, d), (batch, kv_len, hkv, d), (batch, kv_len, hkv, dv)]
    if dtype == "int8":
        q, k, v = (integers(*shape, seed=i) for i, shape in enumerate(shapes))
    else:
        q, k, v = (random(*shape, seed=i).astype(ml_dtypes.bfloat16)
                   for i, shape in enumerate(shapes))
    inputs = [np.stack([q, k, v], 2)] if packed else [q, k, v]
    inputs += [] if mask is None else [mask]
    unit = 1.0
    if dtype == "int8":
        scales = np.array([spread / (73**2 * d**0.5), STEP], "float32")
        inputs.append(scales)
        scale, unit = (float(number) for number in scales)
    expected = attention(q, k, v, scale, mask, causal) * unit
    factor, zero = np.linspace(50, 90, h * dv, dtype="float32"), 5
    if out_dtype == "int8":
        inputs += [factor, np.array([zero], "int32")]
    shape = (batch, q_len, h, dv)
    (result,) = call(workload, isa, inputs, shape, dtype=out_dtype)
    error = np.abs(stored(result, factor, zero) - expected)
    if out_dtype == "int8":
        most = ((np.array([-128, 127]) - zero)[:, None] / factor).reshape(2, h, dv)
        expected = np.clip(expected, most[0], most[1])
        error = np.abs(stored(result, factor, zero) - expected) - 0.5 / factor.reshape(h, dv)
    rounds = dtype == "int8" and isa.partition("@")[0] in INSTRUCTIONS and q_len >= 8
    kind = "int8" if rounds else "bfloat16" if "bfloat16" in (dtype, out_dtype) else "float32"
    assert np.abs(expected).max() > 0
    # Rounded weights err by a share of the values, not of their mean.
    largest = np.abs(v.astype("float64")).max() * unit if rounds else np.abs(expected).max()
    assert error.max() <= TOLERANCE[f"{kind} kernel"] * largest
    return result


def stored(result, factor, zero):
    if result.dtype == np.int8:
        return (result.astype("float64") - zero) / factor.reshape(result.shape[2:])
    return result.astype("float64")


@pytest.mark.parametrize("isa", KERNELS + FOURS)
def test_known_lengths(isa):
    check(isa, (1, 17, 41), widths=(32, 32))
    check(isa, (1, 3, 50), widths=(32, 32))


@pytest.mark.parametrize("isa", FOURS)
def test_any_lengths(isa):
    for sizes in [(2, 3, 50), (1, 8, 32), (1, 9, 33), (1, 20, 5), (2, 17, 130), (1, 9, 1101)]:
        check(isa, sizes, symbolic=True)


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("widths", [(5, 7), (20, 12), (33, 80), (256, 256)], ids=str)
def test_head_sizes(isa, widths):
    check(isa, (1, 19, 21), widths=widths)


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("out_dtype", ["float32", "bfloat16", "int8"])
def test_packed_with_a_mask(isa, symbolic, out_dtype):
    mask = np.where(random(2, 1, 1, 29) > -0.5, np.float32(0), LOWEST)
    check(isa, (2, 29, 29), (3, 3), (32, 32), symbolic, mask, packed=True, out_dtype=out_dtype)


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_a_mask_of_each_query(isa, dtype):
    mask = random(2, 2, 19, 37)
    mask = mask > -0.5 if dtype == "bool" else mask
    check(isa, (2, 19, 37), mask=mask, out_dtype="int8")


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_causal_grouped_heads(isa, symbolic):
    check(isa, (2, 37, 37), (6, 2), (16, 16), symbolic, causal=True)
    check(isa, (1, 9, 1103), (2, 2), (16, 16), symbolic, causal=True, out_dtype="int8")


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("hidden", [LOWEST, -np.inf])
def test_a_causal_query_with_no_key_but_masked_ones(isa, hidden):
    mask = np.zeros((1, 1, 1, 37), "float32")
    mask[..., :21] = hidden
    result = check(isa, (1, 19, 37), mask=mask, causal=True)
    assert result[:, :3].any() == np.isfinite(hidden)


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("size", [1e4, 1e6, 1e8])
def test_a_mask_that_takes_the_same_from_all_keys_changes_little(isa, size):
    mask = np.full((1, 1, 1, 21), -size, "float32")
    result = check(isa, (1, 19, 21), mask=mask, spread=0.0)
    np.testing.assert_allclose(result, result[:, :1].repeat(19, 1), atol=1e-6)


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("low", [-128, 127])
def test_the_largest_numbers_do_not_overflow(isa, low):
    workload = Attention(1, 16, 64, 1, 1, 256, 16, 1.0, dtype="int8", in_dtype="int8")
    q, k, v = (np.full(shape, low, "int8") for shape in (
        (1, 16, 1, 256), (1, 64, 1, 256), (1, 64, 1, 16)))
    scales = np.array([1e-6, 1.0], "float32")
    (result,) = call(workload, isa, [q, k, v, scales], (1, 16, 1, 16))
    np.testing.assert_allclose(result, low, rtol=1e-6)


@pytest.mark.parametrize("isa", FOURS)
def test_keys_of_the_same_score_give_the_mean_of_their_values(isa):
    workload = Attention(1, 16, 150, 1, 1, 8, 16, 1.0, dtype="int8", in_dtype="int8")
    q, k = (np.full((1, length, 1, 8), 3, "int8") for length in (16, 150))
    v, scales = integers(1, 150, 1, 16), np.array([0.1, 0.5], "float32")
    (result,) = call(workload, isa, [q, k, v, scales], (1, 16, 1, 16))
    np.testing.assert_allclose(result - v.mean(1) / 2, 0, atol=1e-5)


@pytest.mark.parametrize("isa", FOURS)
def test_a_key_of_a_far_greater_score_gives_its_value(isa):
    workload = Attention(1, 16, 150, 1, 1, 32, 16, 1.0, dtype="int8", in_dtype="int8")
    q, k, v = (integers(1, length, 1, size) for length, size in ((16, 32), (150, 32), (150, 16)))
    scales = np.array([30.0, 1.0], "float32")
    (result,) = call(workload, isa, [q, k, v, scales], (1, 16, 1, 16))
    scores = q[0, :, 0].astype("int32") @ k[0, :, 0].astype("int32").T
    np.testing.assert_allclose(result[0, :, 0], v[0, scores.argmax(1), 0], rtol=1e-6)


@pytest.mark.parametrize("isa", FOURS)
def test_weights_of_more_than_255_steps_keep_the_mean_of_the_values(isa):
    workload = Attention(1, 16, 600, 1, 1, 8, 8, 1.0, dtype="int8", in_dtype="int8")
    q, k = integers(1, 16, 1, 8), integers(1, 600, 1, 8)
    v = np.full((1, 600, 1, 8), 100, "int8")
    scales = np.array([1e-3, 1.0], "float32")
    (result,) = call(workload, isa, [q, k, v, scales], (1, 16, 1, 8))
    np.testing.assert_allclose(result, 100, rtol=1e-6)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data(), q_len=st.integers(8, 50), kv_len=st.integers(24, 300))
@pytest.mark.parametrize("dot", [fours for fours in FOURS if "@" not in fours.values[0]])
def test_a_random_point_agrees(dot, data, q_len, kv_len):
    target = stand_in(INSTRUCTIONS[dot])
    form = replace(FORM, kv_len=kv_len, head_size=20, value_size=20)
    point = data.draw(st.sampled_from(list(FusedAttention.space(target, form))))
    q, k, v = (integers(1, length, 2, 20, seed=i)
               for i, length in enumerate((q_len, kv_len, kv_len)))
    scales = np.array([1e-4, STEP], "float32")
    (result,) = call_here(
        compiled_here(point.kernel(form, target)), [q, k, v, scales], q.shape)
    expected = attention(q, k, v, float(scales[0])) * STEP
    error = np.abs(result - expected).max()
    assert error <= TOLERANCE["int8 kernel"] * STEP * 127, point.name


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 90)),
    widths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    causal=st.booleans(),
    symbolic=st.booleans(),
    out_dtype=st.sampled_from(["float32", "int8"]),
)
@pytest.mark.parametrize("isa", FOURS[:1] + [isa.name for isa in TABLE])
def test_any_sizes(isa, sizes, widths, causal, symbolic, out_dtype):
    if causal and sizes[1] > sizes[2]:
        sizes = (sizes[0], sizes[2], sizes[1])
    check(isa, sizes, widths=widths, causal=causal, symbolic=symbolic, out_dtype=out_dtype)


@pytest.mark.parametrize("isa", BFLOAT16)
@pytest.mark.parametrize("out_dtype", ["float32", "bfloat16", "int8"])
def test_bfloat16_inputs(isa, out_dtype):
    check(isa, (1, 19, 37), (4, 2), (32, 32), dtype="bfloat16", out_dtype=out_dtype, spread=0.5)
    check(isa, (2, 21, 21), (2, 2), (20, 20), True, dtype="bfloat16", packed=True, causal=True,
          out_dtype=out_dtype, spread=0.5)


@pytest.mark.parametrize("isa", BFLOAT16[:1])
def test_few_bfloat16_queries(isa):
    check(isa, (1, 1, 37), (4, 2), (32, 32), dtype="bfloat16", out_dtype="bfloat16")


def test_a_workload_of_short_inputs_names_itself():
    packed = Attention(1, 8, 8, 4, 4, 32, 32, 1.0, packed=True, dtype="int8", in_dtype="int8")
    assert str(packed) == "attention_1x8x8_4x32_int8_packed"
