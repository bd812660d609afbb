"""Integers that are quantised as they were before are left as they are."""

import numpy as np
from tvm import relax
from tvm.relax import op

from pocketformer.passes.fold_quantization import FoldQuantization
from pocketformer.passes.graph import Graph, op_name
from tests.passes.graphs import module, random, run


def number(value, dtype="float32"):
    return relax.const(np.array(value, dtype))


SCALE, ZERO, OTHER = number(0.05), number(7, "int8"), number(0.06)


def operators(mod):
    return [op_name(value).removeprefix("relax.") for _, value in Graph(mod["main"])]


def folded(inputs, body, weights=None):
    before = module(inputs, weights or {}, body)
    after = FoldQuantization()(before)
    arrays = random(*inputs.values(), *(weights or {}).values())
    for ours, theirs in zip(run(after, *arrays), run(before, *arrays), strict=True):
        assert np.any(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    return operators(after)


def test_integers_are_not_made_float32_to_be_moved():
    def body(x):
        q = op.quantize(x, SCALE, ZERO, -1, "int8")
        moved = op.permute_dims(op.reshape(op.dequantize(q, SCALE, ZERO), (2, 4, 3)), [0, 2, 1])
        return op.dequantize(op.quantize(moved, SCALE, ZERO, -1, "int8"), SCALE, ZERO)

    assert folded({"x": (2, 12)}, body) == [
        "quantize", "reshape", "permute_dims", "dequantize", ""]


def test_other_scales_round_again():
    def body(x):
        q = op.quantize(x, SCALE, ZERO, -1, "int8")
        again = op.quantize(op.dequantize(q, SCALE, ZERO), OTHER, ZERO, -1, "int8")
        return op.dequantize(again, OTHER, ZERO)

    assert folded({"x": (2, 12)}, body).count("quantize") == 2


def test_a_table_is_looked_up_in_integers():
    def body(x, table):
        short = op.dequantize(op.astype(op.multiply(table, number(9)), "int8"), SCALE, ZERO)
        return op.add(x, op.take(short, relax.const(np.array([3, 1])), axis=0))

    found = folded({"x": (2, 8)}, body, {"table": (5, 8)})
    assert found.index("take") < found.index("dequantize")


def test_a_scaled_product_of_integers_is_one_of_dequantised_tensors():
    def body(x, w):
        q = op.quantize(x, SCALE, ZERO, -1, "int8")
        left = op.subtract(op.astype(q, "int32"), op.astype(ZERO, "int32"))
        right = op.astype(op.astype(op.multiply(w, number(9)), "int8"), "int32")
        sums = op.matmul(left, right, out_dtype="int32")
        scale = op.multiply(SCALE, relax.const(np.linspace(0.1, 0.2, 4, dtype="float32")))
        return op.multiply(op.astype(sums, "float32"), scale)

    found = folded({"x": (2, 8)}, body, {"w": (8, 4)})
    assert found.count("dequantize") == 2
    assert "subtract" not in found


def test_sums_of_integers_that_are_not_scaled_stay():
    def body(x):
        q = op.astype(op.quantize(x, SCALE, ZERO, -1, "int8"), "int32")
        return op.matmul(q, op.permute_dims(q), out_dtype="int32")

    assert folded({"x": (2, 8)}, body).count("dequantize") == 0
