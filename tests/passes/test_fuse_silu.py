"""SiLU in both orders, and what only looks like it."""

import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer.passes.fuse_silu import FuseSilu
from tests.passes.graphs import module


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((2, 8), "float32"), up: R.Tensor((2, 8), "float32")
    ) -> R.Tuple(R.Tensor((2, 8), "float32")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            gate = R.sigmoid(x)
            silu = R.multiply(gate, x)
            gated = R.multiply(silu, up)
            outputs = (gated,)
            R.output(outputs)
        return outputs


@I.ir_module
class After:
    @R.function
    def main(
        x: R.Tensor((2, 8), "float32"), up: R.Tensor((2, 8), "float32")
    ) -> R.Tuple(R.Tensor((2, 8), "float32")):
        R.func_attr({"num_input": 2})
        with R.dataflow():
            silu = R.nn.silu(x)
            gated = R.multiply(silu, up)
            outputs = (gated,)
            R.output(outputs)
        return outputs


def test_finds_the_silu_of_a_gated_product():
    tvm.ir.assert_structural_equal(FuseSilu()(Before), After)


def test_computes_the_same(agree):
    before = module({"x": (2, 8)}, {}, lambda x: op.multiply(x, op.sigmoid(x)))
    after = FuseSilu()(before)
    assert not after.same_as(before)
    agree(before, after)


@pytest.mark.parametrize(
    "body",
    [
        lambda x, y: op.multiply(y, op.sigmoid(x)),
        lambda x, y: op.multiply(x, op.sigmoid(op.multiply(x, relax.const(1.702)))),
    ],
    ids=["another_value_gated", "quick_gelu"],
)
def test_leaves_what_is_no_silu_alone(body):
    before = module({"x": (2, 8), "y": (2, 8)}, {}, body)
    assert FuseSilu()(before).same_as(before)
