"""What an accuracy check can measure, held to the textbook's formulas."""

import numpy as np
import pytest
from scipy import stats

from pocketformer.compiler.quantization.metrics import (
    METRICS,
    Answers,
    Metric,
    Spearman,
    _ranks,
)


def answers(
    items: int = 6, rows: int = 5, n: int = 16, noise: float = 0.1, masked: bool = True
) -> Answers:
    rng = np.random.default_rng()
    expected = rng.standard_normal((items, rows, n), np.float32)
    found = expected + noise * rng.standard_normal(expected.shape, np.float32)
    counted = rng.random((items, rows)) < 0.7 if masked else np.ones((items, rows), bool)
    counted[:, 0] = True
    return Answers(expected, found, counted)


def measured(name: str, *batches: Answers) -> Metric:
    metric = METRICS[name]()
    for batch in batches:
        metric.update(batch)
    return metric


def whole(*batches: Answers) -> tuple[np.ndarray, np.ndarray]:
    """All rows that count."""
    expected = np.concatenate([batch.expected[batch.counted] for batch in batches])
    found = np.concatenate([batch.found[batch.counted] for batch in batches])
    return expected.astype(np.float64), found.astype(np.float64)


def test_cosine_is_the_mean_over_all_rows_that_count():
    batches = answers(), answers(items=2, rows=9)
    a, b = whole(*batches)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    metric = measured("cosine", *batches)
    assert metric.value() == pytest.approx(cosines.mean(), abs=1e-6)
    assert metric.drop() == pytest.approx(1 - cosines.mean(), abs=1e-6)


def test_rows_that_are_zero_in_both_are_alike_and_in_one_are_not():
    zero, one = np.zeros((1, 1, 4), np.float32), np.ones((1, 1, 4), np.float32)
    counted = np.ones((1, 1), bool)
    assert measured("cosine", Answers(zero, zero, counted)).value() == 1.0
    assert measured("cosine", Answers(one, zero, counted)).value() == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_equal_answers_lose_exactly_nothing(name):
    given = [answers(items=1, rows=1) for _ in range(40)]
    equal = [Answers(each.expected, each.expected.copy(), each.counted) for each in given]
    assert measured(name, *equal).drop() == 0.0


@pytest.mark.parametrize(("name", "k"), [("top1", 1), ("top5", 5)])
def test_top_k_finds_the_largest_of_float32_among_the_k_largest(name, k):
    batches = answers(items=40, noise=1.0), answers(items=40, noise=1.0)
    a, b = whole(*batches)
    right = [row.argmax() in np.argsort(-other)[:k] for row, other in zip(a, b, strict=True)]
    metric = measured(name, *batches)
    assert 0 < metric.value() < 1
    assert metric.value() == pytest.approx(np.mean(right))
    assert metric.baseline() == 1.0


def test_top_k_with_labels_compares_two_accuracies():
    rng = np.random.default_rng()
    plain = answers(items=40, rows=1, noise=1.0, masked=False)
    labels = rng.integers(0, 16, (40, 1))
    labels[:25, 0] = plain.expected[:25, 0].argmax(-1)
    metric = measured("top1", Answers(plain.expected, plain.found, plain.counted, labels))
    in_float = np.mean(plain.expected.argmax(-1) == labels)
    ours = np.mean(plain.found.argmax(-1) == labels)
    assert metric.baseline() == pytest.approx(in_float)
    assert metric.value() == pytest.approx(ours)
    assert metric.drop() == pytest.approx(in_float - ours)


def test_equal_values_do_not_all_count_as_the_largest():
    expected = np.eye(4, dtype=np.float32)[None]
    same = Answers(expected, np.zeros_like(expected), np.ones((1, 4), bool))
    assert measured("top1", same).value() == 0.25


def test_spearman_ranks_the_similarities_of_all_pairs_of_items():
    batches = answers(noise=0.8), answers(items=9, noise=0.8)
    vectors = []
    for kind in ("expected", "found"):
        means = [
            rows[counted].mean(0)
            for batch in batches
            for rows, counted in zip(getattr(batch, kind), batch.counted, strict=True)
        ]
        units = np.stack([mean / np.linalg.norm(mean) for mean in means])
        vectors.append((units @ units.T)[np.triu_indices(len(units), 1)])
    wanted = stats.spearmanr(*vectors).statistic
    assert measured("spearman", *batches).value() == pytest.approx(wanted, abs=1e-4)


def test_equal_values_share_their_mean_rank():
    values = np.random.default_rng().integers(0, 5, 40)
    np.testing.assert_array_equal(_ranks(values), stats.rankdata(values) - 1)


def test_spearman_of_two_items_is_no_number():
    assert np.isnan(measured("spearman", answers(items=2)).value())


@pytest.mark.parametrize(("most", "taken"), [(7, 7), (20, 10)])
def test_spearman_of_very_many_items_takes_the_first(most, taken):
    metric = Spearman(most)
    for batch in (answers(items=5), answers(items=5)):
        metric.update(batch)
    assert len(metric.expected) == len(metric.found) == taken


def test_sqnr_is_signal_to_noise_in_decibel():
    batches = answers(noise=0.01), answers(items=3, noise=0.1)
    a, b = whole(*batches)
    wanted = 10 * np.log10((a**2).sum() / ((a - b) ** 2).sum())
    metric = measured("sqnr", *batches)
    assert metric.value() == pytest.approx(wanted, abs=1e-3)
    assert metric.drop() == pytest.approx(10 ** (-wanted / 10), rel=1e-3)


@pytest.mark.parametrize("name", METRICS)
def test_float32_against_itself_loses_nothing(name):
    batch = answers(noise=0.0)
    metric = measured(name, batch)
    assert metric.drop() == pytest.approx(0.0, abs=1e-6)
    assert metric.value() == pytest.approx(metric.baseline(), abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_answers_of_zero_lose_nearly_everything(name):
    batch = answers(items=200)      # of 16 equal values 5 are the largest: it keeps 0.31 +- 0.02
    lost = measured(name, Answers(batch.expected, np.zeros_like(batch.found), batch.counted))
    assert np.isnan(lost.drop()) or lost.drop() > 0.5


@pytest.mark.parametrize("name", METRICS)
def test_answers_that_are_no_numbers_are_no_gain(name):
    batch = answers(items=20)
    lost = measured(name, Answers(batch.expected, batch.found * np.nan, batch.counted))
    assert np.isnan(lost.drop()) or lost.drop() > 0.5


@pytest.mark.parametrize("name", METRICS)
def test_rows_that_do_not_count_change_nothing(name):
    batch = answers()
    other = batch.found.copy()
    other[~batch.counted] = 7.0
    changed = Answers(batch.expected, other, batch.counted)
    assert measured(name, changed).drop() == pytest.approx(measured(name, batch).drop(), abs=1e-6)
