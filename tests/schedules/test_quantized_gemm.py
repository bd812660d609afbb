"""Linear kernels of 8-bit integers: exact sums, scales of rows and columns, results as integers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketformer import targets
from pocketformer.compiler.errors import BadWorkload
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.dot_right import SEVERAL
from pocketformer.schedules.cpu.intrinsics import TABLE
from pocketformer.schedules.cpu.tiles import BLOCK_ROWS
from pocketformer.schedules.workloads import MOST_PRODUCTS, QuantizedLinear
from tests.schedules.epilogue import assert_rounded, finished
from tests.schedules.running import (
    assert_agrees,
    call,
    instructions,
    kernel_of,
    kernels,
    packed,
    random,
)

ROWS = (1, 2, 7, 8, 9, 33, 131)
ANY = QuantizedLinear(None, 50, 37, zero=True, bias=True, residual=True)
PRODUCTS = [*kernels(ANY), *instructions(ANY, "int8")]


def integers(dtype, *shape):
    """Random numbers, the least and the greatest of `dtype` among them."""
    info = np.iinfo(dtype)
    found = np.random.default_rng(shape).integers(info.min, info.max + 1, shape).astype(dtype)
    found.reshape(-1)[0], found.reshape(-1)[-1] = info.min, info.max
    return found


def rows_of(m, k):
    """Integers x and zeros, and the float32 rows that are to be quantised to them by their ranges.

    No number is near the middle between two integers.
    """
    random = np.random.default_rng([m, k])
    zero = random.integers(-128, 128, m).astype("int32")
    x = random.integers(-128, 128, (m, k))
    ends = np.stack([np.full(m, -128), np.full(m, 127)], 1)
    x[:, :2] = ends[:, :k] if k > 1 else np.where(zero > 0, -128, 127)[:, None]
    shift = random.uniform(-0.3, 0.3, x.shape)
    shift[(x == -128) | (x == 127)] = 0
    scale = random.uniform(0.01, 0.1, (m, 1))
    return x, zero, scale[:, 0], ((x + shift - zero[:, None]) * scale).astype("float32")


def check(work, isa, m):
    """Against float64, which holds all sums exactly."""
    n, k = work.n, work.k
    weight, scales = integers("int8", k, n), np.abs(random(n, seed=3)) / 100
    if work.x_dtype == "float32":
        x, zero, x_scale, given = rows_of(m, k)
        numbers = []
    else:
        given = x = integers(work.x_dtype, m, k)
        count = m if work.per_row else 1
        x_scale = (np.abs(random(count, seed=4)) + np.float32(0.1)) / 100
        zero = integers("int8", count).astype("int32") if work.zero else np.zeros(count, "int32")
        numbers = [x_scale, *[zero] * work.zero]
    sums = weight.sum(axis=0, dtype="int32")
    inputs = [given, packed(weight, kernel_of(work, isa).packed_shape), scales, sums, *numbers]
    products = (x.astype("float64") - zero[:, None]) @ weight
    expected = finished(work, products * scales * x_scale[:, None], inputs)
    if work.out_dtype == "int32":
        expected = products
    if work.out_dtype == "float32":
        (result,) = call(work, isa, inputs, (m, n))
        rough = work.activation == "gelu"
        assert_agrees(result, expected, "bfloat16 activation" if rough else "float32 kernel")
    else:
        assert_rounded(work, isa, inputs, expected)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_any_number_of_rows(isa):
    for m in ROWS:
        check(ANY, isa, m)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_unsigned_numbers_with_a_scale_a_row(isa):
    check(QuantizedLinear(9, 96, 70, "uint8", per_row=True, activation="relu"), isa, 9)


@pytest.mark.parametrize("isa", PRODUCTS)
@pytest.mark.parametrize("dtype", ["uint8", "bfloat16"])
def test_a_short_result(isa, dtype):
    check(QuantizedLinear(5, 21, 20, bias=True, residual=True, out_dtype=dtype), isa, 5)


@pytest.mark.parametrize("isa", PRODUCTS)
@pytest.mark.parametrize(("sizes", "options"), [
    ((9, 50, 40), {"bias": True}),
    ((9, 50, 40), {"per_row": True, "zero": True, "residual": True}),
    ((3, 140, 9), {"bias": True, "activation": "gelu", "zero": True}),
], ids=["folded", "rows", "gelu"])
def test_integers_from_integers(isa, sizes, options):
    check(QuantizedLinear(*sizes, out_dtype="int8", **options), isa, sizes[0])


@pytest.mark.parametrize("isa", [isa for isa in PRODUCTS if "mmla" in isa.values[0]])
@pytest.mark.parametrize("k", [32, 36, 45])     # and a last group without a second, or part of one
def test_matrices_of_weights_that_many_tiles_take(isa, k):
    rows = 8 * SEVERAL - 1
    check(QuantizedLinear(rows, 192, k, zero=True, out_dtype="int32"), isa, rows)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_sums_are_exact(isa):
    check(QuantizedLinear(11, 53, 70, "uint8", zero=True, out_dtype="int32"), isa, 11)
    check(QuantizedLinear(7, 48, 64, per_row=True, zero=True, out_dtype="int32"), isa, 7)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_rows_are_quantised_by_their_ranges(isa):
    work = QuantizedLinear(None, 24, 75, "float32", bias=True, activation="gelu", residual=True)
    for m in (9, 35):
        check(work, isa, m)


@pytest.mark.parametrize("isa", [isa for isa in PRODUCTS if "@" in isa.values[0]])
@pytest.mark.parametrize("activation", ["", "gelu"])
def test_a_phone_gives_the_bytes_that_this_machine_gives(isa, activation):
    work = QuantizedLinear(9, 96, 64, bias=True, activation=activation, out_dtype="int8")
    inputs = [integers("int8", 9, 64), integers("int8", 64, 96), np.abs(random(96)) / 300]
    inputs += [inputs[1].sum(axis=0, dtype="int32"), np.float32([0.03]), random(96, seed=1)]
    inputs += [np.float32(20) + random(96, seed=2), np.array([-7], "int32")]

    def result(isa):
        shape = kernel_of(work, isa).packed_shape
        arguments = [packed(each, shape) if at == 1 else each for at, each in enumerate(inputs)]
        return call(work, isa, arguments, (9, 96), dtype="int8")[0]

    there = result(isa)
    np.testing.assert_array_equal(there, result("avx2"))
    assert len(np.unique(there)) > 50


def test_more_rows_are_quantised_than_are_packed_at_a_time():
    check(QuantizedLinear(None, 16, 40, "float32"), "avx2", 2 * BLOCK_ROWS + 3)


def test_a_row_of_zeros_stays_zero():
    work = QuantizedLinear(3, 16, 40, "float32")
    isa = TABLE[0].name
    weight = integers("int8", 40, 16)
    x = random(3, 40)
    x[1] = 0
    inputs = [x, packed(weight, kernel_of(work, isa).packed_shape), np.ones(16, "float32"),
              weight.sum(axis=0, dtype="int32")]
    (result,) = call(work, isa, inputs, (3, 16))
    assert (result[1] == 0).all()
    assert (result[::2] != 0).all()


@pytest.mark.parametrize("isa", PRODUCTS)
def test_a_row_with_nan_gives_nan_and_its_neighbours_do_not_change(isa):
    work = QuantizedLinear(None, 24, 75, "float32", bias=True, activation="gelu", residual=True)
    x, weight = random(9, 75), integers("int8", 75, 24)
    rest = [packed(weight, kernel_of(work, isa).packed_shape), np.full(24, 0.001, "float32"),
            weight.sum(axis=0, dtype="int32"), random(24), random(9, 24)]
    (whole,) = call(work, isa, [x, *rest], (9, 24))
    x[2, [5, 70]] = np.nan      # a greater number follows each of them
    x[3, 74] = np.inf
    x[4, :2] = 3e38, -3e38      # whose difference float32 does not hold
    (result,) = call(work, isa, [x, *rest], (9, 24))
    assert np.isnan(result[2:4]).all()
    assert np.isfinite(result[4]).all()
    np.testing.assert_array_equal(np.delete(result, [2, 3, 4], 0), np.delete(whole, [2, 3, 4], 0))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 200),
    k=st.integers(1, 150),
    x_dtype=st.sampled_from(["int8", "uint8", "float32"]),
    per_row=st.booleans(),
    zero=st.booleans(),
    out=st.sampled_from(["float32", "int8"]),
    isa=st.sampled_from([isa.name for isa in TABLE]),
)
def test_any_sizes(m, n, k, x_dtype, per_row, zero, out, isa):
    check(QuantizedLinear(m, n, k, x_dtype, per_row, zero, out_dtype=out), isa, m)


@pytest.mark.parametrize("isa", [p for p in PRODUCTS if p.values[0] in ("avx2", "vpdpbusd")])
def test_the_longest_sums_are_exact(isa):
    k = MOST_PRODUCTS
    work = QuantizedLinear(1, 16, k, "float32")
    weight = np.full((k, 16), -128, "int8")
    inputs = [np.ones((1, k), "float32"), packed(weight, kernel_of(work, isa).packed_shape),
              np.ones(16, "float32"), weight.sum(axis=0, dtype="int32")]
    (result,) = call(work, isa, inputs, (1, 16))
    np.testing.assert_allclose(result, -128.0 * k, rtol=1e-6)
    with pytest.raises(BadWorkload, match=f"int32 holds the sum of {k} products"):
        replace(work, k=k + 1)
    assert replace(work, k=k + 1, x_dtype="uint8", out_dtype="int32").k == k + 1


def test_the_first_instruction_that_a_target_has_is_taken():
    def dot(name):
        return pick(replace(ANY, m=8), targets.load(name)).name.rpartition("_")[2]

    assert [dot(name) for name in ("arm64-android", "raspberrypi5", "pixel8", "x86_64-linux")] == [
        "neon", "sdot", "smmla", "avx2"]


def test_a_workload_names_itself():
    assert str(replace(ANY, per_row=True, out_dtype="uint8")) == (
        "linear_anyx50x37_int8_rows_zero_bias_residual_to_uint8")
