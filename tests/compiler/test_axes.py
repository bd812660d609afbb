"""Axes as formulas: "2*seq + 1" is computed and solved, and nothing else is run."""

import pytest

from pocketformer.compiler.axes import evaluate, names_in, solve
from pocketformer.compiler.errors import BadDim

SIZES = {"batch": 2, "seq": 7}


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        (5, 5),
        ("seq", 7),
        ("2*seq", 14),
        ("seq * 2 + 1", 15),
        ("batch*seq", 14),
        ("(seq - 1)//2 + 1", 4),
        ("seq % 4", 3),
        ("-seq + 10", 3),
        ("min(seq, 4)", 4),
        ("max(seq, batch*4)", 8),
    ],
)
def test_a_formula_has_its_value(axis, size):
    assert evaluate(axis, SIZES) == size


@pytest.mark.parametrize(
    "axis",
    ["", "seq +", "seq.real", "seq[0]", "f(seq)", "min()", "min(a=1)", "min(*seq)", "1.5", "'a'",
     "seq / 2", "2**seq", "lambda: 0", "seq if seq else 1", "(yield)", "a" * 501, "(" * 300],
)
def test_what_is_no_formula_is_refused(axis):
    with pytest.raises(BadDim):
        evaluate(axis, SIZES)


def test_an_unknown_dimension_and_a_division_by_zero_are_refused():
    with pytest.raises(BadDim, match="heads"):
        evaluate("heads", SIZES)
    with pytest.raises(BadDim, match="divides by zero"):
        evaluate("seq // (batch - 2)", SIZES)


def test_a_formula_tells_its_dimensions():
    assert names_in("min(past, 9) + seq*2") == {"past", "seq"}
    assert names_in(4) == frozenset()


def test_the_one_lacking_dimension_is_found():
    assert solve("past + seq", 10, SIZES) == {**SIZES, "past": 3}
    assert solve("2*past + 1", 9, {}) == {"past": 4}


def test_nothing_is_made_up():
    assert solve("a + b", 10, {}) == {}
    assert solve("seq", 9, SIZES) == SIZES
    assert evaluate("2*past", solve("2*past", 9, {})) != 9
