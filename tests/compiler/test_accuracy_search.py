"""The search for the fewest layers that must stay in higher precision."""

import numpy as np
import pytest

from pocketformer.compiler.quantization.search import Search


def additive(noise: dict[str, float]):
    """A model whose drop is the sum of what its quantised layers take."""
    return lambda kept: sum(value for name, value in noise.items() if name not in kept)


def random_noise(layers: int) -> dict[str, float]:
    rng = np.random.default_rng()
    return {f"layer.{i}": float(each) for i, each in enumerate(rng.exponential(size=layers) ** 3)}


def test_keeps_nothing_where_the_drop_is_within_the_limit():
    noise = random_noise(10)
    search = Search(additive(noise), sum(noise.values()) * 1.01, 40)
    assert search.fewest(noise) == frozenset()
    assert len(search.tried) == 1


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_keeps_the_fewest_layers_that_suffice(share):
    noise = random_noise(60)
    limit = share * sum(noise.values())
    search = Search(additive(noise), limit, 200)
    kept = search.fewest(noise)
    largest = sorted(noise, key=lambda name: -noise[name])
    assert kept == frozenset(largest[: len(kept)])
    assert additive(noise)(kept) <= limit < additive(noise)(frozenset(largest[: len(kept) - 1]))


def test_a_good_estimate_takes_few_measurements():
    noise = random_noise(100)
    search = Search(additive(noise), 0.5 * sum(noise.values()), 200)
    kept = search.fewest(noise)
    assert len(search.tried) <= 6 + 2 * len(kept)    # each is tried without, and groups of them


def test_an_exact_estimate_is_right_at_once():
    noise = random_noise(100)
    search = Search(additive(noise), 0.5 * sum(noise.values()), 200)
    kept = search.fewest(noise)
    # Nothing kept, the guess and one layer less; then such as the rest has room for half of.
    assert {len(each) for each in search.tried} == {0, len(kept), len(kept) - 1}
    assert len(search.tried) <= 3 + len(kept)


def test_a_wrong_order_is_made_up_for_by_giving_back():
    noise = dict.fromkeys((f"layer.{i}" for i in range(20)), 0.001) | {"bad": 1.0}
    guess = {name: 1.0 + i for i, name in enumerate(noise)} | {"bad": 0.5}
    search = Search(additive(noise), 0.1, 100)
    assert search.fewest(guess) == {"bad"}


def test_keeping_every_layer_is_no_answer():
    noise = random_noise(8)
    search = Search(additive(noise), 0.0, 100)
    assert search.fewest(noise) is None
    assert search.tried[frozenset(noise)] == 0.0


def test_no_choice_is_measured_twice_and_no_more_than_allowed():
    noise, calls = random_noise(30), []

    def measure(kept: frozenset[str]) -> float:
        calls.append(kept)
        return additive(noise)(kept)

    search = Search(measure, 0.2 * sum(noise.values()), 5)
    kept = search.fewest(noise)
    assert len(calls) == len(set(calls)) <= 5
    assert kept is None or additive(noise)(kept) <= search.limit


def test_answers_that_are_no_numbers_hold_nothing():
    noise = random_noise(12)
    worst = max(noise, key=noise.__getitem__)
    search = Search(lambda kept: 0.0 if worst in kept else float("inf"), 0.01, 40)
    assert search.fewest(noise) == {worst}
