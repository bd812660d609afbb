"""Products of two quantised activations: exact sums, then scales and rounding."""

import numpy as np
import pytest

from pocketformer.schedules.workloads import QuantizedMatmul
from tests.schedules.running import assert_agrees, call, instructions, kernels

ANY = QuantizedMatmul(None, None, None, None)
SIZES = [(1, 3, 5, 1), (2, 1, 1, 9), (2, 7, 37, 11), (3, 9, 48, 32), (1, 33, 100, 5),
         (2, 17, 64, 70)]
EVERY = [*kernels(ANY), *instructions(ANY, "int8")]
# Both ends of a range are in it; products of these and of the zeros are the largest there are.
ENDS = {"int8": (-128, 127), "uint8": (0, 255)}


def whole(dtype, *shape):
    low, high = ENDS[dtype]
    drawn = np.random.default_rng().integers(low, high + 1, shape)
    drawn.flat[: min(2, drawn.size)] = (low, high)[: drawn.size]
    return drawn.astype(dtype)


def check(isa, sizes, symbolic=False, **options):
    work = QuantizedMatmul(*((None,) * 4 if symbolic else sizes), **options)
    batch, m, n, k = sizes
    a, b = whole(work.a_dtype, batch, m, k), whole(work.b_dtype, batch, k, n)
    zeros = [np.array([np.random.default_rng().choice(ENDS[dtype])], "int32")
             for dtype in (work.a_dtype, work.b_dtype)]
    sums = np.matmul(a.astype("int64") - zeros[0], b.astype("int64") - zeros[1])
    given, steps = [a, b, *zeros], 150 / np.abs(sums).max()    # what is outside has to be clipped
    if work.out_dtype != "int32":
        given.append(np.array([0.01], "float32"))
    if work.out_dtype in ENDS:
        middle = sum(ENDS[work.out_dtype]) // 2
        given += [np.array([100 * steps], "float32"), np.array([middle], "int32")]
    (found,) = call(work, isa, given, (batch, m, n), dtype=work.out_dtype)
    assert np.any(found)
    if work.out_dtype == "int32":
        np.testing.assert_array_equal(found, sums)
    elif work.out_dtype == "float32":
        assert_agrees(found, sums * 0.01)
    else:
        exact = np.clip(sums * steps + middle, *ENDS[work.out_dtype])
        np.testing.assert_allclose(found, exact, rtol=0, atol=0.502)


@pytest.mark.parametrize("isa", EVERY)
def test_sums_of_any_sizes_are_exact(isa):
    for sizes in SIZES:
        check(isa, sizes, symbolic=True, out_dtype="int32")


FEW = [*kernels(ANY, "avx2", "neon32"), *instructions(ANY, "int8")]


@pytest.mark.parametrize("isa", FEW)
def test_numbers_without_signs_are_rounded_to_some(isa):
    check(isa, (2, 11, 44, 38), a_dtype="uint8", b_dtype="uint8", out_dtype="int8")


@pytest.mark.parametrize("isa", FEW)
def test_numbers_with_signs_are_rounded_to_those_without(isa):
    check(isa, (2, 13, 16, 70), out_dtype="uint8")


@pytest.mark.parametrize("isa", kernels(ANY, "avx512", "sse"))
def test_results_are_scaled(isa):
    check(isa, (2, 11, 44, 36))
