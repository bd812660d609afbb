"""Norm and softmax kernels against float64."""

import numpy as np
import pytest

from pocketformer.schedules.workloads import Norm, Softmax
from tests.schedules.running import assert_agrees, call, kernels, random

EPS = 1e-5


def norm(x, weight, bias, kind):
    x = x.astype("float64")
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight + bias


def check_norm(isa, rows, size, kind, symbolic=False, **options):
    workload = Norm(None if symbolic else rows, size, kind, EPS, **options)
    x, weight = random(rows, size) * 3 + 5, random(size, seed=1)
    inputs, bias, total = [x], 0.0, x
    if workload.residual:
        inputs.append(random(rows, size, seed=2))
        total = x + inputs[-1]
    inputs.append(weight)
    if workload.bias:
        bias = random(size, seed=3)
        inputs.append(bias)
    shapes = [(rows, size)] * (1 + workload.keep_sum)
    result, *kept = call(workload, isa, inputs, *shapes)
    assert_agrees(result, norm(total, weight, bias, kind))
    if workload.keep_sum:
        np.testing.assert_array_equal(kept[0], total)


@pytest.mark.parametrize("isa", kernels(Norm(None, 64, "rms", EPS)))
@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm(isa, size, kind):
    if size == 1 and kind == "layer":
        size = 2     # a layer norm of one number is 0
    check_norm(isa, 3, size, kind)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("options", [
    {"bias": True}, {"residual": True}, {"residual": True, "bias": True},
    {"residual": True, "keep_sum": True}, {"residual": True, "keep_sum": True, "bias": True},
], ids="_".join)
def test_norm_with(kind, symbolic, options):
    check_norm("avx512", 5, 83, kind, symbolic, **options)
    check_norm("neon", 200, 384, kind, symbolic, **options)


def softmax(x):
    x = x.astype("float64")
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("isa", kernels(Softmax(None, None)))
@pytest.mark.parametrize(("rows", "size"), [(3, 5), (2, 333), (130, 128)])
def test_softmax(isa, rows, size):
    x = random(rows, size) * 10
    for workload in (Softmax(rows, size), Softmax(None, None)):
        (result,) = call(workload, isa, [x], (rows, size))
        assert_agrees(result, softmax(x))


def test_softmax_of_infinities_is_what_a_plain_softmax_gives():
    x = np.zeros((3, 20), "float32")
    x[0, 5:] = -np.inf
    x[1] = -np.inf
    (result,) = call(Softmax(3, 20), "avx512", [x], (3, 20))
    np.testing.assert_allclose(result[0], [0.2] * 5 + [0] * 15, atol=1e-7)
    assert np.isnan(result[1]).all()
    np.testing.assert_allclose(result[2], 0.05, rtol=1e-6)
