"""Linear kernels of 8-bit integers: exact sums, scales of rows and columns, results as integers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.intrinsics import TABLE
from pocketformer.schedules.workloads import QuantizedLinear
from tests.schedules.epilogue import finished
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


def check(work, isa, m):
    """Against float64, which holds all sums exactly."""
    n, k = work.n, work.k
    x, weight = integers(work.x_dtype, m, k), integers("int8", k, n)
    count = m if work.per_row else 1
    scales = np.abs(random(n, seed=3)) / 100
    x_scale = (np.abs(random(count, seed=4)) + np.float32(0.1)) / 100
    inputs = [x, packed(weight, kernel_of(work, isa).packed_shape), scales]
    inputs += [weight.sum(axis=0, dtype="int32"), x_scale]
    zero = integers("int8", count).astype("int32") if work.zero else np.zeros(count, "int32")
    inputs += [zero] * work.zero
    products = ((x.astype("float64") - zero[:, None]) @ weight) * scales * x_scale[:, None]
    expected = finished(work, products, inputs)
    if work.out_dtype == "float32":
        (result,) = call(work, isa, inputs, (m, n))
        assert_agrees(result, expected)
        return
    info = np.iinfo(work.out_dtype)
    step, middle = np.float32(np.abs(expected).max() / 100), np.int32((info.min + info.max) // 2)
    inputs += [np.array([step]), np.array([middle])]
    (result,) = call(work, isa, inputs, (m, n), dtype=work.out_dtype)
    near = [np.clip(np.round(expected / step + shift) + middle, info.min, info.max)
            for shift in (-1e-3, 1e-3)]     # which of two a tie becomes is a matter of float32
    assert ((near[0] <= result) & (result <= near[1])).all()
    assert len(np.unique(result)) > min(5, result.size // 2)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_any_number_of_rows(isa):
    for m in ROWS:
        check(ANY, isa, m)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_unsigned_numbers_with_a_scale_a_row(isa):
    check(QuantizedLinear(9, 96, 70, "uint8", per_row=True, activation="relu"), isa, 9)


@pytest.mark.parametrize("isa", PRODUCTS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_result_of_integers(isa, dtype):
    check(QuantizedLinear(5, 21, 20, bias=True, residual=True, out_dtype=dtype), isa, 5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 200),
    k=st.integers(1, 150),
    x_dtype=st.sampled_from(["int8", "uint8"]),
    per_row=st.booleans(),
    zero=st.booleans(),
    isa=st.sampled_from([isa.name for isa in TABLE]),
)
def test_any_sizes(m, n, k, x_dtype, per_row, zero, isa):
    check(QuantizedLinear(m, n, k, x_dtype, per_row, zero), isa, m)


def test_the_first_instruction_that_a_target_has_is_taken():
    def dot(name):
        return pick(replace(ANY, m=8), targets.load(name)).name.rpartition("_")[2]

    assert [dot(name) for name in ("arm64-android", "raspberrypi5", "pixel8", "x86_64-linux")] == [
        "neon", "sdot", "smmla", "avx2"]


def test_a_workload_names_itself():
    assert str(replace(ANY, per_row=True, out_dtype="uint8")) == (
        "linear_anyx50x37_int8_rows_zero_bias_residual_to_uint8")
