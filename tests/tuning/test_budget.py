"""The budget: trials go where the model's time is and where they pay, and end when nothing does."""

from __future__ import annotations

from collections import Counter

from pocketformer.compiler.tuning.budget import GAIN, PATIENCE, Budget


def spent(budget: Budget, batches: int, gain_of: dict[str, float]) -> Counter[str]:
    """Batches of each task, if each gains this share of what is left of its time."""
    best = dict.fromkeys(gain_of, 1.0)
    asked: Counter[str] = Counter()
    for _ in range(batches):
        task = budget.next_task()
        assert task is not None
        asked[task] += 1
        best[task] *= 1 - gain_of[task]
        budget.told(task, best[task], 100)
    return asked


def test_the_heaviest_task_is_first():
    assert Budget({"norm": 1.0, "linear": 40.0, "attention": 9.0}).next_task() == "linear"


def test_tasks_without_gain_share_by_their_time():
    asked = spent(Budget({"a": 3.0, "b": 1.0}), 8, {"a": 0.0005, "b": 0.0005})
    assert asked["a"] > asked["b"] > 0


def test_a_task_that_gains_gets_more_than_one_of_the_same_weight_that_does_not():
    asked = spent(Budget({"dull": 1.0, "rich": 1.0}), 10, {"dull": 0.0, "rich": 0.05})
    assert asked["rich"] > 2 * asked["dull"] > 0


def test_a_task_is_given_up_after_some_batches_without_gain():
    budget = Budget({"only": 1.0})
    asked = 0
    while (task := budget.next_task()) is not None:
        asked += 1
        budget.told(task, 1 - GAIN / 2, 100)
    assert asked == PATIENCE


def test_a_late_gain_keeps_a_task_alive():
    budget = Budget({"only": 1.0})
    for best in [1.0] * (PATIENCE - 1) + [0.95]:
        budget.told("only", best, 100)
    assert budget.next_task() == "only"


def test_a_task_without_points_is_never_asked():
    budget = Budget({"heavy": 9.0, "light": 1.0})
    budget.told("heavy", 1.0, 0)
    assert budget.next_task() == "light"


def test_every_task_of_some_weight_gets_a_batch_first():
    asked = spent(Budget({"rich": 1.0, "light": 0.05, "tiny": 0.001}), 2, {
        "rich": 0.2, "light": 0.0, "tiny": 0.0})
    assert asked == {"rich": 1, "light": 1}


def test_a_batch_of_which_nothing_came_does_not_count():
    budget, calm = Budget({"only": 1.0}), Budget({"only": 1.0})
    for _ in range(3 * PATIENCE):
        budget.next_task()
        budget.lost("only", 100)
    assert spent(budget, PATIENCE, {"only": 0.0}) == spent(calm, PATIENCE, {"only": 0.0})


def test_batches_under_way_count():
    budget = Budget({"a": 1.0, "b": 0.9})
    assert [budget.next_task() for _ in range(2)] == ["a", "b"]
