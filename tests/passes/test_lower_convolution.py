"""Convolutions as matrix products, and those that stay."""

import pytest
import tvm
from tvm import tirx
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer.passes.lower_convolution import LowerConvolution
from tests.passes.graphs import module


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 3, 8, 8), "float32"),
        w: R.Tensor((5, 3, 4, 4), "float32"),
        b: R.Tensor((1, 5, 1, 1), "float32"),
    ) -> R.Tuple(R.Tensor((1, 5, 2, 2), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            conv = R.nn.conv2d(x, w, strides=(4, 4))
            sums = R.add(conv, b)
            outputs = (sums,)
            R.output(outputs)
        return outputs


@I.ir_module
class After:
    @R.function
    def main(
        x: R.Tensor((1, 3, 8, 8), "float32"),
        w: R.Tensor((5, 3, 4, 4), "float32"),
        b: R.Tensor((1, 5, 1, 1), "float32"),
    ) -> R.Tuple(R.Tensor((1, 5, 2, 2), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            tiles = R.reshape(x, R.shape([1, 3, 2, 4, 2, 4]))
            moved = R.permute_dims(tiles, axes=[0, 2, 4, 1, 3, 5])
            rows = R.reshape(moved, R.shape([1, 2, 2, 48]))
            last = R.permute_dims(w, axes=[1, 2, 3, 0])
            columns = R.reshape(last, R.shape([48, 5]))
            product = R.matmul(rows, columns)
            bias = R.reshape(b, R.shape([5]))
            sums = R.add(product, bias)
            out = R.permute_dims(sums, axes=[0, 3, 1, 2])
            outputs = (out,)
            R.output(outputs)
        return outputs


def test_an_image_is_cut_into_tiles():
    tvm.ir.assert_structural_equal(LowerConvolution()(Before), After)


@pytest.mark.parametrize(("x", "weights", "body"), [
    ((2, 3, 8, 12), {"w": (5, 3, 4, 4), "b": (5, 1, 1)}, lambda x, w, b: op.nn.relu(
        op.add(op.nn.conv2d(x, w, strides=(4, 4)), b))),
    ((2, 3, 20), {"w": (5, 3, 3), "b": (1, 5, 1)}, lambda x, w, b: op.nn.gelu(
        op.add(op.nn.conv1d(x, w, strides=2, padding=1), b))),
    ((2, 3, 21), {"w": (5, 3, 4)}, lambda x, w: op.nn.silu(
        op.nn.conv1d(x, w, padding=(3, 0), dilation=2))),
    ((2, 3, 9), {"w": (4, 3, 1)}, op.nn.conv1d),
    ((2, 3, 9), {"w": (3, 3, 1)}, lambda x, w: op.add(op.nn.conv1d(x, w), x)),
], ids=["tiles", "strided", "dilated", "one_place", "residual"])
def test_computes_the_same(agree, x, weights, body):
    before = module({"x": x}, weights, body)
    after = LowerConvolution()(before)
    assert not after.same_as(before)
    assert "conv" not in after.script()
    agree(before, after)


n = tirx.Var("n", "int64")


@pytest.mark.parametrize(("x", "weight", "body", "reason"), [
    ((1, 4, 9), (4, 2, 3), lambda x, w: op.nn.conv1d(x, w, groups=2), "it has 2 groups"),
    ((1, 4, n), (4, 4, 3), op.nn.conv1d, "the size of an axis is known only at run time"),
    ((1, 4, 9, 9), (4, 4, 3, 3), op.nn.conv2d,
     "its windows overlap, and moving the channels of an image costs more"),
], ids=["groups", "any_size", "overlap"])
def test_refuses(reasons, x, weight, body, reason):
    before = module({"x": x}, {"w": weight}, body)
    assert LowerConvolution()(before).same_as(before)
    assert [found for _, found in reasons()] == [reason]


def test_refuses_a_kernel_that_is_no_weight(reasons):
    before = module({"x": (1, 4, 9), "w": (4, 4, 3)}, {}, op.nn.conv1d)
    assert LowerConvolution()(before).same_as(before)
    assert [found for _, found in reasons()] == ["it is no float32 convolution with a weight"]
