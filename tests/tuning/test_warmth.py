"""When a device is given time to cool down."""

from pocketformer.compiler.tuning.warmth import LONGEST, SHORTEST, Warmth


def test_the_first_batch_of_a_task_is_never_waited_after():
    warmth = Warmth()
    assert warmth.seconds_to_wait("a", 100.0) == 0
    assert warmth.seconds_to_wait("b", 200.0) == 0


def test_a_device_that_got_slower_is_waited_for():
    warmth = Warmth()
    warmth.seconds_to_wait("a", 100.0)
    assert warmth.seconds_to_wait("a", 104.9) == 0
    assert warmth.seconds_to_wait("a", 90.0) == 0
    assert warmth.seconds_to_wait("a", 105.1) == LONGEST
    assert not warmth.has_cooled("a", 103.1)
    assert warmth.has_cooled("a", 102.9)


def test_a_wait_in_vain_makes_the_next_one_shorter():
    warmth = Warmth()
    warmth.seconds_to_wait("a", 100.0)
    for patience in (LONGEST / 2, LONGEST / 4):
        slower = 2 * warmth._first["a"]
        warmth.waited("a", slower)
        assert warmth.seconds_to_wait("a", slower) == 0      # that is how fast it is now
        assert warmth.seconds_to_wait("a", 1.1 * slower) == patience
    for _ in range(10):
        warmth.waited("a", 2 * warmth._first["a"])
    assert warmth.seconds_to_wait("a", 2 * warmth._first["a"]) == SHORTEST
    warmth.waited("a", warmth._first["a"])
    assert warmth.seconds_to_wait("a", 2 * warmth._first["a"]) == LONGEST
