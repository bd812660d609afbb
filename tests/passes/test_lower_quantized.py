"""Loops end where integers are stored that others read."""

import numpy as np
from tvm import relax
from tvm.relax import op

from pocketformer.passes.graph import Graph, op_name
from pocketformer.passes.lower_quantized import LowerQuantized
from tests.passes.graphs import module, random, run

SCALE, ZERO = relax.const(np.float32(0.05)), relax.const(np.int8(3))


def test_integers_that_are_made_and_read_get_a_view_between():
    def body(x):
        q = op.quantize(op.exp(x), SCALE, ZERO, -1, "int8")
        return op.erf(op.dequantize(q, SCALE, ZERO))

    before = module({"x": (2, 8)}, {}, body)
    after = LowerQuantized()(before)
    names = [op_name(value) for _, value in Graph(after["main"])]
    assert names[:4] == ["relax.exp", "relax.quantize", "relax.reshape", "relax.dequantize"]
    arrays = random((2, 8))
    np.testing.assert_array_equal(run(after, *arrays)[0], run(before, *arrays)[0])


def test_weights_and_views_get_none():
    def body(x, w):
        view = op.reshape(op.quantize(x, SCALE, ZERO, -1, "int8"), (16,))
        short = op.dequantize(op.astype(w, "int8"), SCALE, ZERO)
        return op.add(op.dequantize(view, SCALE, ZERO), short)

    before = module({"x": (2, 8)}, {"w": (16,)}, body)
    assert LowerQuantized()(before)["main"].script() == before["main"].script()
