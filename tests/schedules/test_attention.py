"""Attention kernels against float64: tails, masks of every shape, grouped heads, hidden rows."""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.attention import FEW, FusedAttention
from pocketformer.schedules.workloads import Attention
from tests.schedules.running import (
    INSTRUCTIONS,
    TABLE,
    assert_agrees,
    call,
    instructions,
    kernels,
    random,
    stand_in,
)

KERNELS = kernels(Attention(None, None, None, 2, 2, 8, 8, 1.0))
TWO = kernels(Attention(None, None, None, 2, 2, 8, 8, 1.0), "avx512", "neon")
PAIRS = [pairs for pairs in instructions(
    Attention(None, None, None, 2, 2, 8, 8, 1.0, dtype="bfloat16"), "bfloat16")
    if "bfmmla" not in pairs.values[0]]     # attention takes a vector of sums
LOWEST = np.finfo("float32").min


def attention(q, k, v, scale, mask=None, causal=False):
    """The textbook's attention on [batch, length, heads, size]; zeros where no key is visible."""
    q, k, v = (array.astype("float64") for array in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, 2), np.repeat(v, group, 2)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else (
            (scores.astype("float32") + mask).astype("float64"))
    if causal:
        rows, columns = np.arange(scores.shape[2])[:, None], np.arange(scores.shape[3])
        later = columns > rows + len(columns) - len(rows)
        lost = mask is not None and mask.dtype != bool and (
            np.isfinite(scores) & ~later).any(-1, keepdims=True) & (
            np.where(later, -np.inf, scores).max(-1, keepdims=True) < -1e30)
        scores = np.where(later, np.where(lost, LOWEST, -np.inf), scores)
    most = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(most), most, 0))
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights / np.where(total == 0, 1, total), v)


def check(isa, sizes, heads=(2, 2), widths=(8, 8), symbolic=False, mask=None, causal=False,
          packed=False, flags=None, seed=0, dtype="float32"):
    (batch, q_len, kv_len), (h, hkv), (d, dv) = sizes, heads, widths
    known = (None, None, None) if symbolic else sizes
    if mask is not None and flags is None:
        flags = tuple(size != 1 for size in mask.shape[:3])
    mask_dtype = "float32" if mask is None or mask.dtype != bool else "bool"
    workload = Attention(*known, h, hkv, d, dv, 0.3, flags, mask_dtype, causal, packed, dtype)
    q, k, v = (random(batch, length, n, size, seed=i) for i, (length, n, size) in enumerate(
        [(q_len, h, d), (kv_len, hkv, d), (kv_len, hkv, dv)], start=seed))
    inputs = [np.stack([q, k, v], 2)] if packed else [q, k, v]
    if mask is not None:
        inputs.append(mask)
    (result,) = call(workload, isa, inputs, (batch, q_len, h, dv))
    if dtype == "bfloat16" and q_len >= FEW and kv_len >= keys_of(isa, workload):
        bits = 0.3 * math.log2(math.e)      # of which the kernel takes powers of two
        q, k, v = rounded(q * np.float32(bits)) / bits, rounded(k), rounded(v)
    expected = attention(q, k, v, 0.3, mask, causal)
    assert_agrees(result, expected, f"{dtype} kernel")
    return result


def keys_of(isa, workload):
    """How many keys a tile of the kernel for an instruction has; fewer stay in float32."""
    dot = INSTRUCTIONS[isa.partition("@")[0]]
    return FusedAttention.default(stand_in(dot), workload).keys


def rounded(array):
    return array.astype(ml_dtypes.bfloat16).astype("float64")


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("sizes", [(2, 3, 5), (1, 41, 70)], ids=str)
def test_known_lengths(isa, sizes):
    check(isa, sizes)


@pytest.mark.parametrize("isa", KERNELS)
def test_any_lengths(isa):
    for sizes in [(1, 1, 1), (2, 3, 50), (1, 8, 32), (1, 9, 33), (1, 20, 5), (2, 17, 129)]:
        check(isa, sizes, symbolic=True)


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_more_keys_than_a_block(isa, symbolic):
    check(isa, (1, 9, 1100), symbolic=symbolic)
    check(isa, (1, 9, 1100), symbolic=symbolic, causal=True)


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize("widths", [(5, 5), (20, 12), (64, 80), (256, 256)], ids=str)
@pytest.mark.parametrize("queries", [5, 17])
def test_head_sizes(isa, widths, queries):
    check(isa, (1, queries, 21), widths=widths)


@pytest.mark.parametrize("isa", TWO[:1])
@pytest.mark.parametrize(("dtype", "symbolic"), [("float32", True), ("bool", False)])
@pytest.mark.parametrize("shape", [
    (1, 1, 1, 37), (2, 1, 1, 37), (1, 1, 11, 37), (2, 4, 11, 37), (1, 4, 1, 37)], ids=str)
def test_masks(isa, symbolic, shape, dtype):
    mask = random(*shape)
    mask = mask > -0.5 if dtype == "bool" else np.where(mask > -0.5, mask, LOWEST)
    check(isa, (2, 11, 37), (4, 4), symbolic=symbolic, mask=mask)
    if symbolic:
        check(isa, (2, 3, 37), (4, 4), symbolic=True, mask=mask[:, :, :3])


def test_a_mask_with_one_value_for_all_keys():
    mask = random(2, 1, 11, 1)
    check("avx512", (2, 11, 37), mask=mask, flags=(True, False, True, False))


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("sizes", [(1, 37, 37), (2, 5, 21), (1, 1, 70)], ids=str)
def test_causal(isa, symbolic, sizes):
    check(isa, sizes, symbolic=symbolic, causal=True)


def test_causal_with_more_queries_than_keys_hides_the_first_rows():
    result = check("avx512", (1, 40, 5), causal=True)
    assert not result[:, :35].any()


@pytest.mark.parametrize("queries", [5, 21])
def test_causal_with_a_mask(queries):
    mask = np.where(random(2, 1, queries, 37) > 0, np.float32(0), LOWEST)
    check("avx512", (2, queries, 37), mask=mask, causal=True, symbolic=True)


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize(("sizes", "symbolic"), [((1, 5, 21), False), ((2, 19, 37), True)])
@pytest.mark.parametrize("hidden", [LOWEST, -np.inf])
def test_a_causal_query_with_no_key_but_masked_ones(isa, sizes, symbolic, hidden):
    mask = np.zeros((sizes[0], 1, 1, sizes[2]), "float32")
    first = sizes[2] - sizes[1]
    mask[..., : first + 3] = hidden
    result = check(isa, sizes, mask=mask, causal=True, symbolic=symbolic)
    assert result[:, :3].any() == np.isfinite(hidden)


@pytest.mark.parametrize("sizes", [(2, 1, 50), (2, 5, 9), (1, 19, 37)], ids=str)
def test_grouped_heads_share_a_key_head(sizes):
    check("avx512", sizes, heads=(6, 2), causal=True)
    check("neon", sizes, heads=(4, 1), symbolic=True)


@pytest.mark.parametrize("isa", TWO)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_packed_queries_keys_and_values(isa, symbolic):
    check(isa, (2, 19, 19), packed=True, symbolic=symbolic)


def test_a_row_masked_by_finite_values_is_the_mean_as_with_a_plain_softmax():
    mask = np.zeros((1, 1, 4, 6), "float32")
    mask[0, 0, 2] = LOWEST
    result = check("avx512", (1, 4, 6), mask=mask, symbolic=True)
    np.testing.assert_allclose(result[0, 2], random(1, 6, 2, 8, seed=2)[0].mean(0), atol=1e-6)


@pytest.mark.parametrize("mask", [
    np.full((1, 1, 4, 6), -np.inf, "float32"), np.zeros((1, 1, 4, 6), bool)], ids=["inf", "bool"])
def test_a_row_without_a_visible_key_is_zero(mask):
    mask[0, 0, :3] = True if mask.dtype == bool else 0
    result = check("avx512", (1, 4, 6), mask=mask)
    assert not result[0, 3].any()
    assert result[0, :3].all()


def test_a_mask_of_minus_infinity_hides_keys_of_a_row_that_the_lowest_value_masks():
    mask = np.full((1, 1, 1, 6), LOWEST)
    mask[..., 3:] = -np.inf
    result = check("avx512", (1, 1, 6), mask=mask)
    np.testing.assert_allclose(result[0, 0], random(1, 6, 2, 8, seed=2)[0, :3].mean(0), atol=1e-6)


def test_scores_that_grow_from_block_to_block_do_not_overflow():
    workload = Attention(1, 1, 1100, 1, 1, 4, 4, 1.0)
    q, k, v = np.ones((1, 1, 1, 4), "float32"), np.zeros((1, 1100, 1, 4), "float32"), random(
        1, 1100, 1, 4)
    k[0, :, 0, 0] = np.linspace(-3000, 3000, 1100)
    (result,) = call(workload, "neon", [q, k, v], (1, 1, 1, 4))
    assert_agrees(result, attention(q, k, v, 1.0))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 90)),
    widths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    causal=st.booleans(),
    symbolic=st.booleans(),
    isa=st.sampled_from([isa.name for isa in TABLE]),
)
def test_any_sizes(sizes, widths, causal, symbolic, isa):
    if causal and sizes[1] > sizes[2]:
        sizes = (sizes[0], sizes[2], sizes[1])
    check(isa, sizes, widths=widths, causal=causal, symbolic=symbolic)


@pytest.mark.parametrize("isa", PAIRS)
@pytest.mark.parametrize("widths", [(32, 32), (5, 7), (20, 12), (33, 80)], ids=str)
def test_bfloat16_head_sizes(isa, widths):
    check(isa, (1, 19, 21), widths=widths, dtype="bfloat16")


@pytest.mark.parametrize("isa", PAIRS)
def test_bfloat16_any_lengths(isa):
    for sizes in [(2, 3, 50), (1, 8, 32), (1, 9, 33), (1, 20, 5), (2, 17, 129), (1, 9, 1101),
                  (1, 8, 8), (1, 9, 13), (1, 9, 15)]:
        check(isa, sizes, symbolic=True, dtype="bfloat16")


@pytest.mark.parametrize("isa", PAIRS)
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
def test_bfloat16_causal_grouped_heads(isa, symbolic):
    check(isa, (2, 37, 37), (6, 2), (16, 16), symbolic, causal=True, dtype="bfloat16")


@pytest.mark.parametrize("isa", PAIRS)
@pytest.mark.parametrize("by_query", [False, True])
def test_bfloat16_packed_with_a_mask(isa, by_query):
    mask = np.where(random(2, 1, 29 if by_query else 1, 29) > -0.5, np.float32(0), LOWEST)
    check(isa, (2, 29, 29), widths=(32, 32), packed=True, mask=mask, dtype="bfloat16")


@pytest.mark.parametrize("isa", PAIRS)
def test_bfloat16_causal_queries_with_no_key_but_masked_ones(isa):
    mask = np.zeros((1, 1, 1, 37), "float32")
    mask[..., :21] = LOWEST
    check(isa, (1, 19, 37), mask=mask, causal=True, dtype="bfloat16")


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(8, 40), st.integers(16, 90)),
    widths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    causal=st.booleans(),
    symbolic=st.booleans(),
)
@pytest.mark.parametrize("isa", PAIRS[:1])
def test_bfloat16_any_sizes(isa, sizes, widths, causal, symbolic):
    check(isa, sizes, widths=widths, causal=causal, symbolic=symbolic, dtype="bfloat16")


@pytest.mark.parametrize("isa", PAIRS)
def test_bfloat16_numbers_are_rounded_before_they_are_multiplied(isa):
    workload = Attention(1, 16, 16, 1, 1, 8, 8, 1.0, dtype="bfloat16")
    zeros = np.zeros((1, 16, 1, 8), "float32")
    value = np.full_like(zeros, 1 + 2.0**-9)        # half of the last place is rounded to even
    (result,) = call(workload, isa, [zeros, zeros, value], (1, 16, 1, 8))
    np.testing.assert_allclose(result, 1.0, rtol=1e-6)


def test_bfloat16_stays_float32_where_no_instruction_multiplies_it():
    target = targets.load("raspberrypi4")
    known = Attention(1, 32, 32, 2, 2, 8, 8, 1.0)
    assert pick(replace(known, dtype="bfloat16"), target).name == pick(known, target).name


def test_a_workload_names_itself():
    assert str(Attention(1, 128, None, 12, 12, 32, 32, 1.0, (True, False, False))) == (
        "attention_1x128xany_12x32_maskbk")
    assert str(Attention(2, 7, 7, 4, 2, 20, 12, 1.0, causal=True)) == (
        "attention_2x7x7_4of2x20v12_causal")
    assert str(Attention(1, 8, 8, 4, 4, 32, 32, 1.0, packed=True, dtype="bfloat16")) == (
        "attention_1x8x8_4x32_bfloat16_packed")
