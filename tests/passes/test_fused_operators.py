"""What composites of short numbers compute, against numpy."""

import numpy as np
import pytest
from tvm import relax

from pocketformer.passes.fused_operators import (
    attention,
    lookup,
    norm,
    packed_attention,
    quantize,
    quantize_rows,
    quantized_linear,
    quantized_matmul,
    weight_only_linear,
)
from tests.numerics.tolerance import TOLERANCE
from tests.passes.graphs import random, run

ROWS, K, N = (2, 5), 16, 7


def computed(body, *arrays):
    """What `body` gives for `arrays`."""
    params = [
        relax.Var(f"x{i}", relax.TensorType(array.shape, str(array.dtype)))
        for i, array in enumerate(arrays)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            value = body(*params)
            fields = list(value.fields) if isinstance(value, relax.Tuple) else [value]
            out = builder.emit_output(relax.Tuple([builder.emit(field) for field in fields]))
        builder.emit_func_output(out)
    outs = run(builder.get(), *arrays)
    return outs if len(outs) > 1 else outs[0]


def integers(*shape, low=-128, high=127, dtype="int8"):
    return np.random.default_rng().integers(low, high + 1, shape).astype(dtype)


def close(found, expected):
    limit = TOLERANCE["float32 kernel"] * abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def rows_in_numpy(x):
    low, high = (end(x, axis=-1, keepdims=True) for end in (np.min, np.max))
    steps = np.float32(255)
    scale = np.maximum(high, 0) / steps - np.minimum(low, 0) / steps
    scale = np.where(scale == 0, np.float32(1), scale)
    zero = np.rint(np.float32(-128) - np.minimum(low, 0) / scale)
    return np.clip(np.rint(x / scale) + zero, -128, 127), scale, zero


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_ties_are_rounded_to_even_and_what_lies_outside_is_the_nearest(dtype):
    x = np.arange(-600, 600, dtype="float32").reshape(2, -1) / 4
    factor, zero = np.array([2.0], "float32"), np.array([3], "int32")
    limits = np.iinfo(dtype)
    expected = np.clip(np.rint(x * 2) + 3, limits.min, limits.max)
    found = computed(lambda *args: quantize(*args, dtype=dtype), x, factor, zero)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_rows_use_all_steps_of_their_own_range_and_keep_zero():
    [x] = random((*ROWS, K))
    x[0, 0], x[0, 1] = 0, abs(x[0, 1])    # nothing, and nothing below 0
    q, scale, zero = computed(quantize_rows, x)
    for found, expected in zip((q, scale, zero), rows_in_numpy(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (q.dtype, zero.dtype) == ("int8", "int32")
    np.testing.assert_allclose((q - zero) * scale, x, atol=scale.max())


def test_a_factor_comes_before_the_ranges_of_rows():
    x, factor = random((*ROWS, K), (K,))
    for found, expected in zip(
        computed(quantize_rows, x, factor), rows_in_numpy(x * factor), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_a_quantized_linear_takes_the_zero_off_and_ends_like_any_linear():
    x, weight = integers(*ROWS, K), integers(K, N, low=-127)
    weight_scale, bias = random((N,), (N,))
    residual, x_scale, zero = (
        *random((*ROWS, N), (*ROWS, 1)), integers(*ROWS, 1, dtype="int32"))
    found = computed(
        lambda *args: quantized_linear(
            *args, scaled=True, zero=True, rows=True, bias=True, activation="relu", residual=True),
        x, weight, weight_scale, x_scale, zero, bias, residual)
    sums = (x.astype("int64") - zero) @ weight.astype("int64")
    close(found, np.maximum(sums * x_scale * weight_scale + bias, 0) + residual)


def test_a_quantized_linear_gives_its_sums_or_short_numbers():
    x, weight = integers(*ROWS, K), integers(K, N, low=-127)
    weight_scale = np.full(N, 2**-12, "float32")
    sums = x.astype("int64") @ weight.astype("int64")
    np.testing.assert_array_equal(
        computed(lambda *args: quantized_linear(*args, out_dtype="int32"), x, weight, weight_scale),
        sums)
    factor, zero = np.full(N, 16, "float32"), np.array([-5], "int32")
    found = computed(
        lambda *args: quantized_linear(*args, out_dtype="int8"),
        x, weight, weight_scale, factor, zero)
    np.testing.assert_array_equal(found, np.clip(np.rint(sums / 256) - 5, -128, 127))


def test_a_linear_of_float32_rows_is_that_of_rows_in_their_own_range():
    [x, weight_scale] = random((*ROWS, K), (N,))
    weight = integers(K, N, low=-127)
    q, scale, zero = rows_in_numpy(x)
    found = computed(
        lambda *args: quantized_linear(*args, x_dtype="float32"), x, weight, weight_scale)
    close(found, (q - zero) @ weight.astype("float64") * scale * weight_scale)


def test_groups_of_a_short_weight_have_scales_of_their_own():
    x, scale = random((*ROWS, K), (2, N))
    weight = integers(K, N, low=-8, high=7)
    found = computed(lambda *args: weight_only_linear(*args, bits=4, group=8), x, weight, scale)
    close(found, x @ (weight * np.repeat(scale, 8, axis=0)).astype("float64"))


@pytest.mark.parametrize("keep", [True, False])
def test_a_norm_stores_what_it_computes_in_few_bits(keep):
    x, gamma, beta = random((*ROWS, K), (K,), (K,))
    plain = {"kind": "layer", "eps": 1e-5, "residual": False}
    y = computed(lambda *args: norm(*args, **plain), x, gamma, beta)
    factor, zero = np.full(K, 20, "float32"), np.array([7], "int32")
    found = computed(
        lambda *args: norm(*args, **plain, store="int8", keep=keep), x, gamma, beta, factor, zero)
    expected = computed(quantize, y, factor, zero)
    np.testing.assert_array_equal(found[1] if keep else found, expected)
    found = computed(
        lambda *args: norm(*args, **plain, store="rows", keep=keep), x, gamma, beta, factor)
    for part, expected in zip(found[keep:], computed(quantize_rows, y, factor), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_int8_attention_multiplies_what_its_integers_stand_for():
    batch, length, heads, size = 2, 6, 3, 8
    qkv = integers(batch, length, 3, heads, size, low=-127)
    [mask] = random((batch, 1, 1, length))
    scales = np.array([1e-4, 0.02], "float32")
    query, key, value = (qkv[:, :, i] for i in range(3))
    float_args = (query * np.float32(0.01), key * np.float32(0.01), value * np.float32(0.02), mask)
    expected = computed(lambda *args: attention(*args, scale=1.0), *float_args)
    found = computed(
        lambda *args: packed_attention(*args, scale=1.0, dtype="int8"), qkv, mask, scales)
    close(found, expected)
    factor, zero = np.full(heads * size, 64, "float32"), np.array([1], "int32")
    short = computed(
        lambda *args: attention(*args, scale=1.0, dtype="int8", out_dtype="int8"),
        query, key, value, mask, scales, factor, zero)
    close(short, np.clip(np.rint(found * 64) + 1, -128, 127))


def test_int8_attention_finds_ranges_of_what_a_mask_does_not_hide():
    """In each batch it hides other numbers in another way."""
    hidden, number = (x.reshape(9, 1, 1, 1) for x in np.meshgrid(
        [-1e9, np.finfo("float32").min, -np.inf], [1e3, np.inf, np.nan]))
    query, key, value = random((9, 5, 2, 8), (9, 9, 2, 8), (9, 9, 2, 8))
    mask = np.zeros((9, 1, 1, 9), "float32")
    seen = query, key[:, :6].copy(), value[:, :6].copy(), mask[..., :6].copy()
    mask[..., 6:], key[:, 6:], value[:, 6:] = hidden, number, number
    found, expected = (
        computed(lambda *args: attention(*args, scale=0.3, dtype="int8"), *args)
        for args in ((query, key, value, mask), seen))
    close(found, expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_lookup_unpacks_and_scales_rows(bits):
    count, size, group = 9, 16, 8
    ids = integers(*ROWS, low=-count, high=count - 1, dtype="int64")
    scale = random((count, size // group))[0]
    if bits == 8:
        table = numbers = integers(count, size)
    else:
        table = integers(count, size // 2, low=0, high=255, dtype="uint8")
        numbers = np.stack([table & 15, table >> 4], -1).reshape(count, size).astype("int64") - 8
    found = computed(
        lambda *args: lookup(*args, bits=bits, group=group, size=size), ids, table, scale)
    close(found, (numbers * np.repeat(scale, group, axis=1))[ids])


def test_a_product_of_two_activations_takes_both_zeros_off():
    a, b = integers(*ROWS, K), integers(2, K, N, low=0, high=255, dtype="uint8")
    zeros, scale = [np.array([zero], "int32") for zero in (5, 130)], np.array([0.001], "float32")
    sums = (a.astype("int64") - 5) @ (b.astype("int64") - 130)
    np.testing.assert_array_equal(
        computed(lambda *args: quantized_matmul(*args, out_dtype="int32"), a, b, *zeros), sums)
    close(computed(quantized_matmul, a, b, *zeros, scale), sums * 0.001)
