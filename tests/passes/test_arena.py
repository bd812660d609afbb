"""Tensors that live at the same time never share a byte, and dead ones make room."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from pocketformer.passes.arena import Bytes, Life, bytes_of, place

LIVES = st.builds(
    lambda size, first, steps: Life(size, first, first + steps),
    st.integers(1, 100), st.integers(0, 30), st.integers(0, 10),
)    # fmt: skip
SEQ, BATCH = tirx.Var("seq", "int64"), tirx.Var("batch", "int64")


@settings(max_examples=200, deadline=None)
@given(st.lists(LIVES, max_size=20))
def test_what_lives_together_lies_apart(lives):
    offsets, total = place(lives)
    for i, one in enumerate(lives):
        assert 0 <= offsets[i] <= total - one.size
        for j, other in enumerate(lives[:i]):
            if one.first <= other.last and other.first <= one.last:
                ends_before = offsets[i] + one.size <= offsets[j]
                assert ends_before or offsets[j] + other.size <= offsets[i]
    busiest = (sum(x.size for x in lives if x.first <= step <= x.last) for step in range(41))
    assert total >= max(busiest)


def test_a_chain_of_layers_takes_what_its_busiest_step_needs():
    sizes = [1, 3, 1, 1, 4, 1] * 3
    lives = [Life(size, step, step + 1) for step, size in enumerate(sizes)]
    assert place(lives)[1] == 5


@pytest.mark.parametrize(
    ("sizes", "limits", "expected"),
    [
        ([2, 3], {}, Bytes(24)),
        ([2, SEQ], {"seq": 64}, Bytes(512)),
        ([65 - SEQ], {"seq": 64}, Bytes(260)),
    ],
    ids=["known", "limited", "falling"],
)
def test_sizes_that_have_a_limit_are_numbers(sizes, limits, expected):
    assert bytes_of(sizes, 4, limits) == expected


def test_the_unit_does_not_depend_on_how_a_product_is_written():
    one, other = bytes_of([BATCH, 4 * SEQ], 4, {}), bytes_of([SEQ * BATCH, 8], 4, {})
    assert (one.count, other.count) == (16, 32)
    assert one.key == other.key
