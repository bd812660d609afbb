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


def emitted(call):
    """A variable, for what is read twice."""
    return relax.BlockBuilder.current().emit(call)


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


def test_activations_without_signs_get_some():
    def body(x):
        q = op.reshape(op.quantize(x, SCALE, number(130, "uint8"), -1, "uint8"), (3, 8))
        return op.dequantize(q, SCALE, number(130, "uint8"))

    before = module({"x": (2, 12)}, {}, body)
    after = FoldQuantization()(before)
    short = {str(value.attrs.out_dtype) for _, value in Graph(after["main"])
             if op_name(value) == "relax.quantize"}
    assert short == {"int8"}
    (x,) = random((2, 12))
    x[0, :4] = [1e9, -1e9, 0, np.nan]
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_integers_without_signs_that_a_model_returns_stay():
    def body(x):
        q = emitted(op.quantize(x, SCALE, number(130, "uint8"), -1, "uint8"))
        return q, op.dequantize(q, SCALE, number(130, "uint8"))

    assert folded({"x": (2, 12)}, body).count("quantize") == 1


def test_what_is_moved_to_be_quantised_is_quantised_first():
    def body(x):
        moved = op.permute_dims(op.reshape(op.nn.relu(x), (2, 4, 3)), [0, 2, 1])
        return op.dequantize(op.quantize(moved, SCALE, ZERO, -1, "int8"), SCALE, ZERO)

    assert folded({"x": (2, 12)}, body) == [
        "nn.relu", "quantize", "reshape", "permute_dims", "dequantize", ""]


def test_what_others_read_moved_is_moved_first():
    def body(x):
        moved = emitted(op.permute_dims(op.nn.relu(x)))
        return moved, op.dequantize(op.quantize(moved, SCALE, ZERO, -1, "int8"), SCALE, ZERO)

    found = folded({"x": (2, 12)}, body)
    assert found.index("permute_dims") < found.index("quantize")
