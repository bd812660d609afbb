"""Norms take the sum before them, unless something else needs it."""

import logging

import numpy as np
import pytest
from tvm import relax
from tvm.relax import op

from pocketformer.passes.fuse_norm import FuseNorm
from tests.passes.graphs import composites, module, random, run

X, G = (2, 5, 16), (16,)


def layer(x, g, b):
    return op.nn.layer_norm(x, g, b, axes=[-1], epsilon=1e-5)


def options(kind, residual, eps=1e-5):
    return [("norm", {"kind": kind, "eps": pytest.approx(eps), "residual": residual})]


def test_takes_a_layer_norm_alone():
    before = module({"x": X}, {"g": G, "b": G}, layer)
    after = FuseNorm()(before)
    assert composites(after) == options("layer", False)
    arrays = random(X, G, G)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_takes_the_sum_before_a_layer_norm():
    def body(x, r, g, b):
        return layer(op.add(x, r), g, b)

    before = module({"x": X, "r": X}, {"g": G, "b": G}, body)
    after = FuseNorm()(before)
    assert composites(after) == options("layer", True)
    arrays = random(X, X, G, G)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_takes_the_sum_before_an_rms_norm():
    def body(x, r, g):
        return op.nn.rms_norm(op.add(x, r), g, axes=[-1], epsilon=1e-6)

    before = module({"x": X, "r": X}, {"g": G}, body)
    after = FuseNorm()(before)
    assert composites(after) == options("rms", True, 1e-6)
    arrays = random(X, X, G)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_leaves_a_sum_that_is_needed_elsewhere():
    def body(x, r, g, b):
        total = relax.BlockBuilder.current().emit(op.add(x, r))
        return [layer(total, g, b), total]

    after = FuseNorm()(module({"x": X, "r": X}, {"g": G, "b": G}, body))
    assert composites(after) == options("layer", False)


def test_leaves_a_sum_that_broadcasts_alone():
    def body(x, r, g, b):
        return layer(op.add(x, r), g, b)

    after = FuseNorm()(module({"x": X, "r": (1, 1, 16)}, {"g": G, "b": G}, body))
    assert composites(after) == options("layer", False)


def test_refuses_a_norm_over_two_axes(caplog):
    def body(x, g, b):
        return op.nn.layer_norm(x, g, b, axes=[-2, -1])

    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        after = FuseNorm()(module({"x": X}, {"g": (5, 16), "b": (5, 16)}, body))
    assert composites(after) == []
    assert [r.reason for r in caplog.records] == [
        "it runs over axes [1, 2] of 3, not the last alone"
    ]
