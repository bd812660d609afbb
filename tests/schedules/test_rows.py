"""Norm, softmax and lookup kernels against float64."""

import numpy as np
import pytest

from pocketformer.schedules.workloads import Lookup, Norm, Softmax
from tests.numerics.tolerance import TOLERANCE
from tests.schedules.running import assert_agrees, call, kernels, random

EPS = 1e-5


def norm(x, weight, bias, kind):
    x = x.astype("float64")
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight + bias


def check_norm(isa, rows, size, kind, symbolic=False, **options):
    workload = Norm(None if symbolic else rows, size, kind, EPS, **options)
    x, weight = random(rows, size) * 3 + 5, random(size, seed=1)
    inputs, bias, total = [x], 0.0, x
    if workload.residual:
        inputs.append(random(rows, size, seed=2))
        total = x + inputs[-1]
    inputs.append(weight)
    if workload.bias:
        bias = random(size, seed=3)
        inputs.append(bias)
    shapes = [(rows, size)] * (1 + workload.keep_sum)
    result, *kept = call(workload, isa, inputs, *shapes)
    assert_agrees(result, norm(total, weight, bias, kind))
    if workload.keep_sum:
        np.testing.assert_array_equal(kept[0], total)


@pytest.mark.parametrize("isa", kernels(Norm(None, 64, "rms", EPS)))
@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm(isa, size, kind):
    if size == 1 and kind == "layer":
        size = 2     # a layer norm of one number is 0
    check_norm(isa, 3, size, kind)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("options", [
    {"bias": True}, {"residual": True}, {"residual": True, "bias": True},
    {"residual": True, "keep_sum": True}, {"residual": True, "keep_sum": True, "bias": True},
], ids="_".join)
def test_norm_with(kind, symbolic, options):
    check_norm("avx512", 5, 83, kind, symbolic, **options)
    check_norm("neon", 200, 384, kind, symbolic, **options)


def stored_norm(isa, rows, size, store, **options):
    """The outputs of a layer norm that is also stored as `store`, and its inputs by name."""
    work = Norm(rows, size, "layer", EPS, bias=True, store=store, **options)
    rng = np.random.default_rng()
    given = {"x": rng.normal(5, 3, (rows, size))}
    if work.residual:
        given["residual"] = rng.normal(0, 1, (rows, size))
    given |= {"weight": rng.normal(0, 1, size), "bias": rng.normal(0, 1, size)}
    if store != "bfloat16":
        given["factor"] = rng.uniform(0.5, 2.0, size) * (40 if store == "int8" else 1)
    given = {name: array.astype("float32") for name, array in given.items()}
    if store == "int8":
        given["zero"] = rng.integers(-50, 50, 1, "int32")
    by_row = store == "rows"
    kinds = ["float32"] * work.keep + ["bfloat16" if store == "bfloat16" else "int8"]
    kinds += ["float32", "int32"] * by_row + ["float32"] * work.keep_sum
    shapes = [(rows, size)] * (1 + work.keep) + [(rows,)] * 2 * by_row
    shapes += [(rows, size)] * work.keep_sum
    outputs = call(work, isa, list(given.values()), *shapes, dtype=kinds)
    total = given["x"] + given.get("residual", 0)
    expected = norm(total, given["weight"], given["bias"], "layer")
    if work.keep_sum:
        np.testing.assert_array_equal(outputs.pop(), total)
    if work.keep:
        assert_agrees(outputs.pop(0), expected)
    return outputs, expected * given.get("factor", 1.0), given


STORED = kernels(Norm(None, 64, "layer", EPS, bias=True, store="int8"))
KEEPING = [{}, {"keep": False, "residual": True}, {"residual": True}]


@pytest.mark.parametrize("isa", STORED)
@pytest.mark.parametrize("options", KEEPING, ids="_".join)
def test_a_norm_stored_as_int8_is_at_most_half_a_step_off(isa, options):
    (stored,), steps, given = stored_norm(isa, 5, 83, "int8", **options)
    assert_whole(stored, steps, given["zero"])
    assert len(np.unique(stored)) > 100


def assert_whole(stored, steps, zero):
    """`stored` is clip(round(steps) + zero); either number where steps lie between two."""
    expected = np.clip(steps + zero, -128, 127)
    assert np.abs(stored - expected).max() <= 0.5 + 255 * TOLERANCE["float32 kernel"]


@pytest.mark.parametrize("isa", STORED)
@pytest.mark.parametrize("options", KEEPING, ids="_".join)
def test_rows_of_a_norm_are_quantised_by_their_own_ranges(isa, options):
    (stored, scale, zero), values, _ = stored_norm(isa, 3, 83, "rows", **options)
    low, high = (end(values, axis=1) for end in (np.min, np.max))
    assert_agrees(scale, (high - low) / 255)
    assert_whole(zero, -128 - low / scale, 0)
    assert_whole(stored, values / scale[:, None], zero[:, None])
    assert (stored.min(1) <= -127).all()    # a zero near the middle between two is either
    assert (stored.max(1) >= 126).all()


@pytest.mark.parametrize("isa", STORED)
def test_a_norm_stored_as_bfloat16_is_rounded_to_the_nearest(isa):
    (stored,), values, _ = stored_norm(isa, 3, 83, "bfloat16", keep=False)
    assert (np.abs(stored.astype("float64") - values) <= 2**-8 * np.abs(values) + 1e-5).all()
    assert len(np.unique(stored)) > 100


def test_a_sum_that_is_kept_comes_after_what_is_stored():
    for store in ("int8", "rows", "bfloat16"):
        stored_norm("avx512", 2, 40, store, residual=True, keep_sum=True)
        stored_norm("avx2", 2, 40, store, residual=True, keep_sum=True, keep=False)


def test_lookups_by_other_ids_have_other_names():
    assert str(Lookup(3, 8, 9, 8, 8)) == "lookup_3x8of9_w8g8"
    assert str(Lookup(3, 8, 9, 8, 8, "int32")) == "lookup_3x8of9_w8g8_i32"


@pytest.mark.parametrize("isa", ["avx512", "sse", "neon"])
def test_a_row_with_nan_has_a_scale_of_nan(isa):
    work = Norm(3, 83, "rms", EPS, store="rows")
    x = random(3, 83)
    x[1, 40] = np.nan
    one = np.ones(83, "float32")
    *_, scale, _ = call(work, isa, [x, one, one], (3, 83), (3, 83), (3,), (3,),
                        dtype=["float32", "int8", "float32", "int32"])
    assert np.isnan(scale).tolist() == [False, True, False]


def test_a_row_of_zeros_has_a_scale_of_one():
    work = Norm(2, 40, "rms", EPS, store="rows", keep=False)
    x = np.random.default_rng().standard_normal((2, 40), "float32")
    x[1] = 0
    one = np.ones(40, "float32")
    stored, scale, zero = call(
        work, "avx2", [x, one, one], (2, 40), (2,), (2,), dtype=["int8", "float32", "int32"])
    assert (scale[1], zero[1]) == (1, -128)
    assert (stored[1] == -128).all()
    assert stored[0].max() >= 126


def softmax(x):
    x = x.astype("float64")
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("isa", kernels(Softmax(None, None)))
@pytest.mark.parametrize(("rows", "size"), [(3, 5), (2, 333), (130, 128)])
def test_softmax(isa, rows, size):
    x = random(rows, size) * 10
    for workload in (Softmax(rows, size), Softmax(None, None)):
        (result,) = call(workload, isa, [x], (rows, size))
        assert_agrees(result, softmax(x))


def test_softmax_of_infinities_is_what_a_plain_softmax_gives():
    x = np.zeros((3, 20), "float32")
    x[0, 5:] = -np.inf
    x[1] = -np.inf
    (result,) = call(Softmax(3, 20), "avx512", [x], (3, 20))
    np.testing.assert_allclose(result[0], [0.2] * 5 + [0] * 15, atol=1e-7)
    assert np.isnan(result[1]).all()
    np.testing.assert_allclose(result[2], 0.05, rtol=1e-6)


LOOKUPS = kernels(Lookup(None, 64, 100, 8, 64))


@pytest.mark.parametrize("isa", LOOKUPS)
@pytest.mark.parametrize(("bits", "size", "group"), [(8, 83, 83), (4, 96, 32), (4, 18, 6)])
def test_lookup(isa, bits, size, group):
    count, rows = 30, 9
    rng = np.random.default_rng()
    whole = rng.integers(-8, 8, (count, size)) if bits == 4 else rng.integers(
        -128, 128, (count, size))
    table = whole.astype("int8")
    if bits == 4:
        table = ((whole[:, ::2] + 8) | (whole[:, 1::2] + 8) << 4).astype("uint8")
    scale = rng.uniform(0.5, 2.0, (count, size // group)).astype("float32")
    given = np.append(rng.integers(-count, count, rows - 2), [count + 5, -count - 5])
    meant = np.clip(np.where(given < 0, given + count, given), 0, count - 1)
    expected = (whole * np.repeat(scale, group, axis=1))[meant]
    for work in (Lookup(rows, size, count, bits, group), Lookup(None, size, count, bits, group,
                                                                "int32")):
        ids = given.astype(work.ids_dtype)
        (result,) = call(work, isa, [ids, table, scale], (rows, size))
        np.testing.assert_allclose(result, expected, rtol=1e-6)
