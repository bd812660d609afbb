"""What a pattern takes for equal, and what not."""

import pytest
from tvm import relax
from tvm.relax import op

from pocketformer.passes.graph import Graph
from pocketformer.passes.pattern import Found, Scalar, Value, operator
from tests.passes.graphs import module

a, b, c = Value("a"), Value("b"), Value("c")


def matches(pattern, body):
    """All ways in which `pattern` fits body(x, y, z)."""
    mod = module(dict.fromkeys("xyz", (2, 8)), {}, body)
    root = mod["main"].body.blocks[0].bindings[-1].value.fields[0]
    return list(pattern.match(Graph(mod["main"]), root, Found()))


def const(value):
    return relax.const(value, "float32")


def tanh_exp_sin(x, y, z):
    return op.tanh(x), op.exp(y), op.sin(z)


GROUPINGS = {
    "left": lambda p, q, r: op.add(op.add(p, q), r),
    "right": lambda p, q, r: op.add(p, op.add(q, r)),
    "left_turned": lambda p, q, r: op.add(r, op.add(q, p)),
    "middle_last": lambda p, q, r: op.add(op.add(p, r), q),
}


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_sum_fits_in_any_order_and_grouping(grouping):
    pattern = operator("tanh", a) + operator("exp", b) + operator("sin", c)

    def body(x, y, z):
        return GROUPINGS[grouping](*tanh_exp_sin(x, y, z))

    (found,) = matches(pattern, body)
    assert {name: value.name for name, value in found.values.items()} == dict(
        zip("abc", "xyz", strict=True)
    )
    assert len(found.calls) == 5


@pytest.mark.parametrize(
    ("pattern", "body"),
    [
        (a * 0.5, lambda x, y, z: op.divide(x, const(2.0))),
        (a / 2, lambda x, y, z: op.multiply(const(0.5), x)),
        (a + -1.0, lambda x, y, z: op.subtract(x, const(1.0))),
        (a**2, lambda x, y, z: op.multiply(x, x)),
        (a**2, lambda x, y, z: op.square(x)),
        (a**3, lambda x, y, z: op.multiply(op.power(x, const(2.0)), x)),
        (1 / a, lambda x, y, z: op.divide(const(1.0), x)),
        (operator("tanh", a) | operator("exp", a), lambda x, y, z: op.exp(x)),
        ((operator("tanh", a) | operator("exp", a)) * b, lambda x, y, z: op.multiply(y, op.exp(x))),
        (a * 1.4142, lambda x, y, z: op.multiply(x, const(2**0.5))),
    ],
    ids=[
        "division", "multiplication", "subtraction", "square_of_product", "square", "cube",
        "reciprocal", "second_choice", "choice_in_a_product", "few_digits",
    ],
)    # fmt: skip
def test_fits_what_is_written_differently(pattern, body):
    assert matches(pattern, body)


@pytest.mark.parametrize(
    ("pattern", "body"),
    [
        (a * a, lambda x, y, z: op.multiply(x, y)),
        (a**2, lambda x, y, z: op.multiply(x, y)),
        (a**2, lambda x, y, z: op.power(x, const(3.0))),
        (a * 1.414, lambda x, y, z: op.multiply(x, const(2**0.5))),
        (a * 0.5, lambda x, y, z: op.divide(const(2.0), x)),
        (a - b, lambda x, y, z: op.add(x, y)),
        (a * 0.5, lambda x, y, z: op.divide(x, const(0.0))),
        (operator("tanh", a) * b * c, lambda x, y, z: op.multiply(op.tanh(x), y)),
        (operator("tanh", a), lambda x, y, z: x),
    ],
    ids=[
        "two_values", "product_of_two", "another_power", "too_few_digits", "turned_division",
        "sum_for_difference", "division_by_zero", "too_few_factors", "an_input",
    ],
)    # fmt: skip
def test_does_not_fit_something_else(pattern, body):
    assert not matches(pattern, body)


def test_a_scalar_gives_its_number():
    pattern = operator("tanh", a) + Scalar("eps")
    (found,) = matches(pattern, lambda x, y, z: op.add(const([0.25]), op.tanh(x)))
    assert found.numbers == {"eps": 0.25}
