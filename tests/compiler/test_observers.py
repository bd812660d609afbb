"""Which range of a tensor int8 shall cover."""

import numpy as np
import pytest

from pocketformer.compiler.quantization.histogram import Histogram
from pocketformer.compiler.quantization.observers import range_of, rounded, scale_and_zero
from pocketformer.compiler.quantization.statistics import TensorStatistics
from pocketformer.compiler.recipe import OBSERVERS
from tests.numerics.tolerance import TOLERANCE


def normal(*shape):
    return np.random.default_rng().normal(size=shape).astype("float32")


def near(found, wanted):
    limit = TOLERANCE["float32"] * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit)


def seen(*batches):
    tensor = TensorStatistics(batches[0].shape[1])
    for batch in batches:
        tensor.update(batch)
    return tensor


def squared_error(values, ends):
    scale, zero = scale_and_zero(*ends)
    return float(np.square((rounded(values, scale, zero) - zero) * scale - values).sum())


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("smooth", [None, np.array([4, 1, 1, 0.5], "float32")], ids=["", "smooth"])
def test_observers_find_a_range_around_zero_within_all_values(observer, smooth):
    batch = normal(400, 4) * np.array([4, 1, 1, 0.5], "float32") + 1
    low, high = range_of(seen(batch), observer, smooth)
    divided = batch / (1 if smooth is None else smooth)
    assert divided.min() - 1e-5 <= low <= 0 < 0.2 * divided.max() < high <= divided.max() + 1e-5


def test_minmax_is_the_range_of_all_values_and_zero():
    first, later = np.abs(normal(9, 4)), np.abs(normal(9, 4))
    found = range_of(seen(first, later), "minmax")
    assert found == (0.0, float(max(first.max(), later.max())))


def test_average_moves_with_the_batches():
    found = range_of(seen(*(np.full((3, 2), value, "float32") for value in (10, 20))), "average")
    near(np.array(found), np.array([0.0, 0.9 * 10 + 0.1 * 20]))


@pytest.mark.parametrize("observer", ["percentile", "entropy"])
def test_one_value_far_outside_does_not_set_the_range(observer):
    batch = normal(8000, 8)
    batch[7, 3] = 60
    low, high = range_of(seen(batch), observer)
    assert 2 < high < 20
    assert batch.min() - 1e-5 <= low < -2


@pytest.mark.parametrize(
    ("observer", "least", "most"), [("percentile", 3.4, 4.5), ("entropy", 2, 12)]
)
def test_one_value_thousands_of_times_the_rest_does_not_either(observer, least, most):
    batch = normal(1000, 400)
    batch[7, 3] = 3e4
    low, high = range_of(seen(batch), observer)
    assert least < -low < most
    assert least < high < most


def test_zeros_do_not_narrow_the_range_of_entropy():
    low, high = range_of(seen(np.maximum(normal(1000, 100), 0)), "entropy")
    assert low == 0
    assert high > 2.8    # of all values but 0, the greatest is about 4


@pytest.mark.parametrize("kind", ["laplace", "student", "outlier"])
def test_mse_has_the_least_error_of_all_ranges(kind):
    batch = np.random.default_rng().laplace(size=(8000, 16)).astype("float32")
    if kind == "student":
        batch = np.random.default_rng().standard_t(3, (8000, 16)).astype("float32")
    elif kind == "outlier":
        batch[7, 3] = 3e4
    tensor, whole = seen(batch), np.abs(batch).max()
    others = [range_of(tensor, name) for name in OBSERVERS]
    others += [(-whole * part, whole * part) for part in np.geomspace(1e-4, 1, 40)]
    found = squared_error(batch, range_of(tensor, "mse"))
    # the search takes steps of 6 %, and the error goes by their square
    assert found <= 1.2 * min(squared_error(batch, ends) for ends in others)


def test_a_tensor_whose_channels_count_nothing_keeps_its_range():
    tensor = seen(batch := normal(50, 4))
    for observer in ("percentile", "entropy", "mse"):
        near(range_of(tensor, observer, weight=np.zeros(4)), (batch.min(), batch.max()))


def test_bins_are_narrow_beside_values_of_every_magnitude():
    values = (normal(3, 40, 50) * 10.0 ** np.arange(-20, 20)[:, None]).astype("float32")
    values[0, 0, :3] = 0, -0.0, 3.39e38
    found, halves = Histogram(), Histogram()
    for part in values:
        found.update(part)
        halves.update(part, np.full(part.shape, 0.5))
    lower, upper, counts = found.bins
    assert (upper - lower <= np.maximum(np.minimum(np.abs(lower), np.abs(upper)) / 64, 1e-38)).all()
    sizes = [np.abs(values[np.signbit(values) == negative]) for negative in (True, False)]
    for low, high, count in zip(lower, upper, counts, strict=True):
        size = sizes[int(high > 0)]
        least, most = sorted((abs(low), abs(high)))
        assert ((size >= least) & (size < most)).sum() == count
    assert (lower[1:] >= upper[:-1]).all()
    assert counts.sum() == values.size
    np.testing.assert_array_equal(halves.bins[2], counts / 2)


def test_zero_is_exact_and_the_ends_are_within_half_a_step():
    low, high = -abs(float(normal(1)[0])) - 0.1, abs(float(normal(1)[0])) + 0.1
    scale, zero = scale_and_zero(low, high)
    assert -128 <= zero <= 127
    for end, whole in ((low, -128), (high, 127)):
        assert abs((whole - zero) * scale - end) <= scale / 2 * 1.001


def test_a_range_of_nothing_but_zero_keeps_zero():
    assert scale_and_zero(0.0, 0.0) == (1.0, 0)
