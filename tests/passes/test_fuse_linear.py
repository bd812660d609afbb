"""Products with weights become linears, with what follows them."""

import logging

import numpy as np
import pytest
from tvm import relax, tirx
from tvm.relax import op

from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.fused_operators import ACTIVATIONS
from tests.passes.graphs import composites, module, random, run

X, W, BIAS = (2, 5, 8), (8, 12), (12,)
OUT = (2, 5, 12)


def options(bias=False, activation="", residual=False):
    return [("linear", {"bias": bias, "activation": activation, "residual": residual})]


def check(before, expected, *shapes):
    after = FuseLinear()(before)
    assert composites(after) == expected
    arrays = random(*shapes)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-4)


def test_takes_a_product_alone():
    check(module({"x": X}, {"w": W}, op.matmul), options(), X, W)


@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
def test_takes_bias_activation_and_residual(activation):
    def body(x, r, w, b):
        out = op.add(b, op.matmul(x, w))
        out = ACTIVATIONS[activation](out) if activation else out
        return op.add(r, out)

    before = module({"x": X, "r": OUT}, {"w": W, "b": BIAS}, body)
    check(before, options(True, activation, True), X, OUT, W, BIAS)


def test_sees_through_reshapes_that_keep_the_last_axis():
    def body(x, r, w, b):
        flat = op.add(op.matmul(op.reshape(x, (10, 8)), w), b)
        return op.add(op.nn.gelu(op.reshape(flat, OUT)), r)

    before = module({"x": X, "r": OUT}, {"w": W, "b": BIAS}, body)
    check(before, options(True, "gelu", True), X, OUT, W, BIAS)


def test_takes_a_transposed_weight():
    before = module({"x": X}, {"w": W[::-1]}, lambda x, w: op.matmul(x, op.permute_dims(w)))
    check(before, options(), X, W[::-1])


def test_keeps_symbolic_rows():
    rows = tirx.Var("seq", "int64")
    before = module(
        {"x": (1, rows, 8)}, {"w": W, "b": BIAS}, lambda x, w, b: op.add(op.matmul(x, w), b)
    )
    check(before, options(bias=True), (1, 3, 8), W, BIAS)


def test_shares_the_function_of_equal_linears():
    def body(x, v, w):
        return op.matmul(op.matmul(x, v), w)

    after = FuseLinear()(module({"x": X}, {"v": (8, 8), "w": (8, 8)}, body))
    assert len(composites(after)) == 2
    assert len(after.functions) == 2


def test_a_sum_of_two_linears_is_the_residual_of_one():
    def body(x, v, w):
        return op.add(op.matmul(x, v), op.matmul(x, w))

    before = module({"x": X}, {"v": W, "w": W}, body)
    after = FuseLinear()(before)
    assert sorted(options["residual"] for _, options in composites(after)) == [False, True]
    arrays = random(X, W, W)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-4)


def test_leaves_a_product_of_two_activations_alone():
    after = FuseLinear()(module({"x": X, "w": W}, {}, op.matmul))
    assert composites(after) == []


def test_leaves_a_sum_that_is_needed_elsewhere():
    def body(x, w, b):
        total = relax.BlockBuilder.current().emit(op.add(op.matmul(x, w), b))
        return [op.nn.relu(total), total]

    after = FuseLinear()(module({"x": X}, {"w": W, "b": BIAS}, body))
    assert composites(after) == options(bias=True)


@pytest.mark.parametrize("added", ["residual", "bias"])
def test_leaves_a_sum_that_repeats_the_product_alone(added):
    one, many = (1, 5, 8), (3, 5, 1)
    if added == "residual":
        before = module({"x": one, "r": (3, 5, 12)}, {"w": W}, lambda x, r, w: op.matmul(x, w) + r)
        check(before, options(), one, (3, 5, 12), W)
    else:
        before = module({"x": one}, {"w": (8, 1), "b": many}, lambda x, w, b: op.matmul(x, w) + b)
        check(before, options(), one, (8, 1), many)


def test_refuses_a_stack_of_weights(caplog):
    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        after = FuseLinear()(module({"x": X}, {"w": (2, 8, 12)}, op.matmul))
    assert composites(after) == []
    assert [record.reason for record in caplog.records] == [
        "the weight has rank 3, a linear needs 2"
    ]
