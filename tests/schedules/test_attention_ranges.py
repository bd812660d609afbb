"""int8 attention that finds the ranges of its float32 inputs, against float64 of rounded ones."""

import numpy as np
import pytest

from pocketformer.schedules.workloads import Attention
from tests.numerics.tolerance import TOLERANCE
from tests.schedules.running import call, instructions, random
from tests.schedules.test_attention import LOWEST, attention

FEW = 8             # queries that are rounded; less stay as they are
KNOWN = Attention(1, 29, 29, 2, 2, 32, 32, 0.2, packed=True, dtype="int8")
FOURS = [fours for fours in instructions(KNOWN, "int8") if "mmla" not in fours.values[0]]


def rounded(x, axes):
    """x [batch, length, heads, size] in steps of its own range over these axes."""
    scale = np.abs(x.astype("float64")).max(axes, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale)
    return np.rint(x / scale) * scale


def expected_of(q, k, v, *options):
    """With the ranges of each query of a head, and of the keys and the values of a head."""
    if q.shape[1] >= FEW:
        q, k, v = rounded(q, 3), rounded(k, (1, 3)), rounded(v, (1, 3))
    return attention(q, k, v, *options)


def inputs(batch, q_len, kv_len, heads, kv_heads, size, value_size):
    """Fresh queries, keys and values."""
    seed = int(np.random.default_rng().integers(1 << 30))
    shapes = (q_len, heads, size), (kv_len, kv_heads, size), (kv_len, kv_heads, value_size)
    return [random(batch, *shape, seed=seed + i) for i, shape in enumerate(shapes)]


def known(isa, q, k, v):
    """The result of KNOWN."""
    return call(KNOWN, isa, [np.stack([q, k, v], 2)], q.shape)[0]


def of_known():
    return inputs(1, 29, 29, 2, 2, 32, 32)


@pytest.mark.parametrize("isa", FOURS)
def test_any_lengths_of_odd_grouped_heads(isa):
    """Some queries see no key but masked ones."""
    work = Attention(None, None, None, 4, 2, 5, 7, 0.4, (True, False, False), causal=True,
                     dtype="int8")
    for sizes in [(2, 3, 50), (1, 8, 32), (2, 17, 130), (1, 9, 1101), (1, 19, 37)]:
        q, k, v = inputs(*sizes, 4, 2, 5, 7)
        v += 3
        mask = np.where(random(sizes[0], 1, 1, sizes[2]) > -0.5, np.float32(0), LOWEST)
        mask[..., : sizes[2] - sizes[1] + 3] = LOWEST
        mask[..., -1] = 0
        (result,) = call(work, isa, [q, k, v, mask], (*q.shape[:3], 7))
        error = np.abs(result - expected_of(q, k, v, 0.4, mask, True)).max()
        assert error <= TOLERANCE["int8 kernel"] * np.abs(v).max()
        assert np.abs(result).max() > 1


@pytest.mark.parametrize("isa", FOURS)
def test_each_query_and_each_head_has_a_range_of_its_own(isa):
    q, k, v = of_known()
    q[:, ::2] *= 1000
    k[:, :, 1] *= 1e-3
    v[:, :, 0] *= 1e4
    result, expected = known(isa, q, k, v), expected_of(q, k, v, 0.2)
    error = np.abs(result - expected).max((1, 3))
    assert (error <= TOLERANCE["int8 kernel"] * np.abs(v).max((1, 3))).all()
    small = np.abs(result[:, 1::2] - attention(q, k, v, 0.2)[:, 1::2]).max((1, 3))
    assert (small <= 4 * TOLERANCE["int8 kernel"] * np.abs(v).max((1, 3))).all()


@pytest.mark.parametrize("isa", FOURS)
def test_zeros_have_a_range_and_their_keys_weigh_the_same(isa):
    q, k, v = of_known()
    mean = np.broadcast_to(rounded(v, (1, 3)).mean(1, keepdims=True), (1, 29, 2, 32))
    for zeros in (0 * q, k), (q, 0 * k):
        np.testing.assert_allclose(known(isa, *zeros, v), mean, atol=1e-5)
    assert not known(isa, q, k, 0 * v).any()


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_its_query_or_its_head_nan(isa, number):
    q, k, v = of_known()
    q[0, 9, 1, 31] = number
    lost = np.isnan(known(isa, q, k, v)).all(3)
    assert lost[0, 9, 1]
    assert lost.sum() == 1
    for which in (0, 1):
        given = [*of_known()]
        given[1 + which][0, 28, 1, 3] = number
        result = known(isa, *given)
        assert np.isnan(result[:, :, 1]).all()
        assert np.isfinite(result[:, :, 0]).all()


HIDES = {"bool": False, "lowest": LOWEST, "infinity": -np.inf, "billion": -1e9}
MASKED = {dtype: Attention(2, 21, 39, 4, 2, 32, 20, 0.2, (True, False, False), dtype, dtype="int8")
          for dtype in ("bool", "float32")}


@pytest.mark.parametrize("isa", FOURS)
@pytest.mark.parametrize("by", HIDES)
def test_what_a_mask_hides_has_no_say(isa, by):
    """In two batches, of which the mask hides different keys."""
    dtype = "bool" if by == "bool" else "float32"
    q, k, v = inputs(2, 21, 39, 4, 2, 32, 20)
    mask = np.full((2, 1, 1, 39), by == "bool", dtype)
    expected = []
    for batch, places in enumerate((slice(9, 13), slice(28, 39))):
        one = slice(batch, batch + 1)
        expected.append(expected_of(
            q[one], *(np.delete(x[one], places, 1) for x in (k, v)), 0.2))
        mask[batch, ..., places] = HIDES[by]
    most = TOLERANCE["int8 kernel"] * np.abs(v[:, :9]).max()
    for number in (1e4, np.inf, np.nan):
        for x in (k, v):
            x[0, 9:13], x[1, 28:] = number * np.sign(x[0, 9:13]), number
        (result,) = call(MASKED[dtype], isa, [q, k, v, mask], (2, 21, 4, 20))
        assert np.abs(result - np.concatenate(expected)).max() <= most


@pytest.mark.parametrize("isa", FOURS)
def test_where_a_mask_hides_all_keys_their_mean_or_zeros_remain(isa):
    q, k, v = inputs(2, 21, 39, 4, 2, 32, 20)
    v += 3
    mask = np.stack([np.full((1, 1, 39), LOWEST), np.full((1, 1, 39), -np.inf, "float32")])
    mean = np.repeat(v[0].mean(0), 2, 0)
    most = TOLERANCE["int8 kernel"] * np.abs(v[0]).max()
    k[1], v[1] = np.nan, np.nan
    (result,) = call(MASKED["float32"], isa, [q, k, v, mask], (2, 21, 4, 20))
    assert np.abs(result[0] - mean).max() <= most
    assert not result[1].any()
