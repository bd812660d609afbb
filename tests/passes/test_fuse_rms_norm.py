"""RMSNorm as Llama and T5 write it, and what is refused."""

import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer.passes.fold_arithmetic import FoldArithmetic
from pocketformer.passes.fuse_rms_norm import FuseRmsNorm
from pocketformer.passes.graph import op_name
from tests.passes.graphs import module

EPS = relax.const(1e-6, "float32")
ONE, TWO = relax.const(1.0, "float32"), relax.const(2.0, "float32")
X, G = (2, 3, 24), (24,)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, "seq", 24), "float32"), gamma: R.Tensor((24,), "float32")
    ) -> R.Tuple(R.Tensor((1, "seq", 24), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            squared = R.power(x, R.const(2.0, "float32"))
            mean = R.mean(squared, axis=[-1], keepdims=True)
            shifted = R.add(mean, R.const(2**-20, "float32"))
            root = R.sqrt(shifted)
            inverse = R.divide(R.const(1.0, "float32"), root)
            normalised = R.multiply(x, inverse)
            norm = R.multiply(gamma, normalised)
            outputs = (norm,)
            R.output(outputs)
        return outputs


@I.ir_module
class After:
    @R.function
    def main(
        x: R.Tensor((1, "seq", 24), "float32"), gamma: R.Tensor((24,), "float32")
    ) -> R.Tuple(R.Tensor((1, "seq", 24), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            norm = R.nn.rms_norm(x, gamma, axes=[-1], epsilon=2**-20)
            outputs = (norm,)
            R.output(outputs)
        return outputs


def spread(x, square=op.square, axis=-1):
    return op.add(op.mean(square(x), [axis], keepdims=True), EPS)


FORMS = {
    "rsqrt": lambda x, g: op.multiply(op.multiply(x, op.rsqrt(spread(x))), g),
    "rsqrt_of_products": lambda x, g: op.multiply(
        g, op.multiply(x, op.rsqrt(spread(x, lambda v: op.multiply(v, v))))
    ),
    "divided": lambda x, g: op.multiply(op.divide(x, op.sqrt(spread(x))), g),
    "scaled_first": lambda x, g: op.divide(op.multiply(x, g), op.sqrt(spread(x))),
    "reciprocal": lambda x, g: op.multiply(g, op.multiply(op.divide(ONE, op.sqrt(spread(x))), x)),
    "power": lambda x, g: op.multiply(
        op.multiply(x, op.power(spread(x), relax.const(-0.5, "float32"))), g
    ),
}


def operators(mod):
    return [op_name(b.value) for b in mod["main"].body.blocks[0].bindings if op_name(b.value)]


def test_finds_the_form_of_llama():
    tvm.ir.assert_structural_equal(FuseRmsNorm()(Before), After)


@pytest.mark.parametrize("form", FORMS)
def test_finds_every_form(form, agree):
    before = module({"x": X}, {"gamma": G}, FORMS[form])
    after = FuseRmsNorm()(before)
    assert operators(after) == ["relax.nn.rms_norm"]
    agree(before, after)


def test_finds_it_between_casts_that_do_nothing(agree):
    def body(x, gamma):
        whole = relax.BlockBuilder.current().emit(op.astype(x, "float32"))
        normal = op.multiply(whole, op.rsqrt(spread(whole)))
        return op.multiply(gamma, op.astype(normal, "float32"))

    before = module({"x": X}, {"gamma": G}, body)
    after = FuseRmsNorm()(FoldArithmetic()(before))
    assert operators(after) == ["relax.nn.rms_norm"]
    agree(before, after)


def test_leaves_the_root_of_another_value_alone(reasons):
    def body(x, y, g):
        return op.multiply(op.multiply(x, op.rsqrt(spread(y))), g)

    before = module({"x": X, "y": X}, {"gamma": G}, body)
    assert FuseRmsNorm()(before).same_as(before)
    assert reasons() == []


def test_says_why_it_leaves_a_norm_over_another_axis_alone(reasons):
    def body(x, g):
        return op.multiply(op.multiply(x, op.rsqrt(spread(x, axis=1))), g)

    before = module({"x": X}, {"gamma": G}, body)
    assert FuseRmsNorm()(before).same_as(before)
    ((_, reason),) = reasons()
    assert reason == "its mean runs over axes [1] of 3, not the last alone"


def test_says_why_it_leaves_a_scale_of_every_position_alone(reasons):
    before = module({"x": X}, {"gamma": (3, 1)}, FORMS["rsqrt"])
    assert FuseRmsNorm()(before).same_as(before)
    ((_, reason),) = reasons()
    assert reason == "gamma has shape [3, 1], a norm needs [24]"
