"""Attention kernels with int8 and bfloat16 inputs and results against float64."""

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
ONE_HEAD = Attention(1, None, None, 1, 1, 32, 16, 1.0, dtype="int8", in_dtype="int8")
FOURS = [fours for fours in instructions(FORM, "int8") if "mmla" not in fours.values[0]]
PAIRS = [pairs for pairs in instructions(
    Attention(None, None, None, 2, 2, 8, 8, 1.0, dtype="bfloat16"), "bfloat16")
    if "bfmmla" not in pairs.values[0]]
STEP = 1 / 40       # of values


def integers(*shape, seed=0):
    """Of all that int8 holds, with the least of them more often than the others."""
    found = np.random.default_rng([seed, *shape]).integers(-160, 128, shape)
    return np.maximum(found, -128).astype("int8")


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


@pytest.mark.parametrize("isa", kernels(FORM, "avx512", "neon"))
def test_few_queries_stay_exact(isa):
    check(isa, (1, 3, 50), widths=(32, 20), out_dtype="bfloat16")


@pytest.mark.parametrize("isa", FOURS)
def test_any_lengths_of_odd_heads(isa):
    for sizes in [(2, 3, 50), (1, 8, 32), (1, 9, 33), (1, 20, 5), (2, 17, 130), (1, 9, 1101)]:
        check(isa, sizes, widths=(5, 7), symbolic=True)


@pytest.mark.parametrize("isa", FOURS)
def test_heads_wider_than_a_vector(isa):
    check(isa, (1, 19, 21), widths=(33, 80))


@pytest.mark.parametrize("isa", FOURS)
def test_packed_with_a_mask(isa):
    mask = np.where(random(2, 1, 1, 29) > -0.5, np.float32(0), LOWEST)
    check(isa, (2, 29, 29), (3, 3), (32, 32), mask=mask, packed=True, out_dtype="int8")


@pytest.mark.parametrize("isa", FOURS)
def test_a_mask_of_each_query(isa):
    mask = random(2, 2, 19, 37) > -0.5
    check(isa, (2, 19, 37), symbolic=True, mask=mask, out_dtype="int8")


@pytest.mark.parametrize("isa", FOURS)
def test_causal_grouped_heads(isa):
    for sizes in [(2, 37, 37), (1, 9, 1103)]:
        check(isa, sizes, (6, 2), (16, 16), symbolic=True, causal=True, out_dtype="int8")


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("hidden", [LOWEST, -np.inf])
def test_a_causal_query_with_no_key_but_masked_ones(isa, hidden):
    mask = np.zeros((1, 1, 1, 37), "float32")
    mask[..., :21] = hidden
    result = check(isa, (1, 19, 37), mask=mask, causal=True)
    assert result[:, :3].any() == np.isfinite(hidden)


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("size", [1e4, 1e6, 1e8])
def test_a_mask_that_takes_the_same_from_all_keys_changes_nothing(isa, size):
    same, nothing = (np.full((1, 1, 1, 37), each, "float32") for each in (-size, 0.0))
    result = check(isa, (1, 19, 37), mask=same, causal=True, spread=0.0)
    without = check(isa, (1, 19, 37), mask=nothing, causal=True, spread=0.0)
    np.testing.assert_allclose(result, without, atol=1e-6)


def of_one_head(isa, q, k, v, scale):
    """The result [query, column] of q[query, 32], k[key, 32] and v[key, 16]."""
    inputs = [np.ascontiguousarray(array[None, :, None], "int8") for array in (q, k, v)]
    scales = np.array([scale, 0.5], "float32")
    (result,) = call(ONE_HEAD, isa, [*inputs, scales], (1, len(q), 1, 16))
    return result[0, :, 0]


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("number", [-128, 127])
def test_the_largest_numbers_do_not_overflow(isa, number):
    all_alike = (np.full((length, size), number) for length, size in (
        (16, 32), (64, 32), (64, 16)))
    np.testing.assert_allclose(of_one_head(isa, *all_alike, 1e-6), number / 2, rtol=1e-6)


@pytest.mark.parametrize("isa", FOURS)
def test_keys_of_the_same_score_give_the_mean_of_their_values(isa):
    v = integers(150, 16)
    result = of_one_head(isa, integers(16, 32), np.full((150, 32), 3), v, 0.1)
    np.testing.assert_allclose(result, np.tile(v.mean(0) / 2, (16, 1)), atol=1e-5)


@pytest.mark.parametrize("isa", FOURS)
def test_a_key_of_a_far_greater_score_gives_its_value(isa):
    q, k, v = integers(16, 32), integers(150, 32), integers(150, 16)
    best = (q.astype("int32") @ k.astype("int32").T).argmax(1)
    np.testing.assert_allclose(of_one_head(isa, q, k, v, 30.0), v[best] / 2, rtol=1e-6)


@pytest.mark.parametrize("isa", FOURS)
def test_rounding_weights_keeps_what_all_values_have_in_common(isa):
    result = of_one_head(isa, integers(16, 32), integers(600, 32), np.full((600, 16), 100), 2e-4)
    np.testing.assert_allclose(result, 50, rtol=1e-6)


@settings(max_examples=2, deadline=None, derandomize=True)
@given(data=st.data(), q_len=st.integers(8, 50), kv_len=st.integers(24, 300))
@pytest.mark.parametrize("dot", [fours for fours in FOURS if "@" not in fours.values[0]])
def test_a_random_point_agrees(dot, data, q_len, kv_len):
    target = stand_in(INSTRUCTIONS[dot])
    form = replace(FORM, kv_len=kv_len, head_size=20, value_size=20)
    point = data.draw(st.sampled_from(list(FusedAttention.space(target, form))))
    q, k, v = (integers(1, length, 2, 20, seed=i)
               for i, length in enumerate((q_len, kv_len, kv_len)))
    scales = np.array([5e-5, STEP], "float32")
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
    isa=st.sampled_from([isa.name for isa in TABLE]),
)
def test_any_sizes_without_an_instruction(isa, sizes, widths, causal, symbolic, out_dtype):
    if causal and sizes[1] > sizes[2]:
        sizes = (sizes[0], sizes[2], sizes[1])
    check(isa, sizes, widths=widths, causal=causal, symbolic=symbolic, out_dtype=out_dtype)


@pytest.mark.parametrize("isa", ["avx512", *PAIRS])
def test_bfloat16_inputs(isa):
    check(isa, (1, 19, 37), (4, 2), (32, 32), dtype="bfloat16", out_dtype="bfloat16", spread=0.5)


@pytest.mark.parametrize("isa", PAIRS)
def test_packed_bfloat16_of_any_length(isa):
    check(isa, (2, 21, 21), (2, 2), (20, 20), True, dtype="bfloat16", packed=True, causal=True,
          spread=0.5)


def test_few_bfloat16_queries():
    check("avx512", (1, 1, 37), (4, 2), (32, 32), dtype="bfloat16", out_dtype="int8")


def test_a_workload_of_short_inputs_names_itself():
    packed = Attention(1, 8, 8, 4, 4, 32, 32, 1.0, packed=True, dtype="int8", in_dtype="int8")
    assert str(packed) == "attention_1x8x8_4x32_int8_packed"
