"""Tensors that live at the same time never share a byte, and dead ones make room."""

import pytest
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.sym import Analyzer

from pocketformer.passes.arena import Bytes, Life, bytes_of, place

LIVES = st.builds(
    lambda size, first, steps: Life(size, first, first + steps),
    st.integers(1, 100), st.integers(0, 30), st.integers(0, 10),
)    # fmt: skip
ONE = tirx.IntImm("int64", 1)
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
    assert str(one.unit) == str(other.unit)


@pytest.mark.parametrize(("width", "expected"), [(16, 64), (3, 192), (313, 1280)])
def test_every_multiple_of_a_step_is_aligned_and_little_is_lost(width, expected):
    """One sequence is not rounded up to 16 where its rows are lines anyway."""
    size = bytes_of([SEQ, width], 4, {})
    step = int(Analyzer().simplify(tvm_ffi.structural_map(size.step, (tirx.Var, lambda _: ONE))))
    assert (size.rounded * step) % 64 == 0
    assert size.rounded * step == expected
