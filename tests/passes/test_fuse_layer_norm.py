"""LayerNorm written out, in every form of its root, with beta and without."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer.passes.fuse_layer_norm import FuseLayerNorm
from pocketformer.passes.graph import op_name, sources
from tests.passes.graphs import module

EPS = relax.const(1e-5, "float32")
X, G = (2, 3, 24), (24,)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((2, "seq", 24), "float32"),
        gamma: R.Tensor((24,), "float32"),
        beta: R.Tensor((24,), "float32"),
    ) -> R.Tuple(R.Tensor((2, "seq", 24), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            mean = R.mean(x, axis=[-1], keepdims=True)
            centred = R.subtract(x, mean)
            squared = R.power(centred, R.const(2.0, "float32"))
            variance = R.mean(squared, axis=[-1], keepdims=True)
            shifted = R.add(variance, R.const(2**-20, "float32"))
            root = R.sqrt(shifted)
            normalised = R.divide(centred, root)
            scaled = R.multiply(normalised, gamma)
            norm = R.add(scaled, beta)
            outputs = (norm,)
            R.output(outputs)
        return outputs


@I.ir_module
class After:
    @R.function
    def main(
        x: R.Tensor((2, "seq", 24), "float32"),
        gamma: R.Tensor((24,), "float32"),
        beta: R.Tensor((24,), "float32"),
    ) -> R.Tuple(R.Tensor((2, "seq", 24), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            norm = R.nn.layer_norm(x, gamma, beta, axes=[-1], epsilon=2**-20)
            outputs = (norm,)
            R.output(outputs)
        return outputs


def mean(x, axis=(-1,), keepdims=True):
    return op.mean(x, list(axis), keepdims)


def centred(x):
    return op.subtract(x, mean(x))


def square(x):
    return op.power(x, relax.const(2.0, "float32"))


def root(x):
    return op.sqrt(op.add(mean(square(centred(x))), EPS))


def written_out(x, gamma, beta):
    return op.add(op.multiply(op.divide(centred(x), root(x)), gamma), beta)


FORMS = {
    "centred_twice": written_out,
    "beta_first": lambda x, g, b: op.add(b, op.multiply(g, op.divide(centred(x), root(x)))),
    "eps_first": lambda x, g, b: op.add(
        op.multiply(
            op.divide(centred(x), op.sqrt(op.add(EPS, mean(square(centred(x)))))), g
        ),
        b,
    ),
    "scaled_root": lambda x, g, b: op.add(
        op.multiply(centred(x), op.multiply(op.rsqrt(op.add(op.variance(x, [2], True), EPS)), g)),
        b,
    ),
    "reciprocal_root": lambda x, g, b: op.add(
        op.multiply(
            op.multiply(centred(x), op.divide(relax.const(1.0, "float32"), root(x))), g
        ),
        b,
    ),
    "product_for_square": lambda x, g, b: op.add(
        op.multiply(
            op.divide(
                centred(x), op.sqrt(op.add(mean(op.multiply(centred(x), centred(x))), EPS))
            ),
            g,
        ),
        b,
    ),
}


def operators(mod):
    return [op_name(b.value) for b in mod["main"].body.blocks[0].bindings if op_name(b.value)]


def test_finds_the_form_of_the_legacy_exporter():
    tvm.ir.assert_structural_equal(FuseLayerNorm()(Before), After)


@pytest.mark.parametrize("form", FORMS)
def test_finds_every_form(form, agree):
    before = module({"x": X}, {"gamma": G, "beta": G}, FORMS[form])
    before = relax.transform.EliminateCommonSubexpr()(before)
    after = FuseLayerNorm()(before)
    assert operators(after) == ["relax.nn.layer_norm"]
    agree(before, after)


def test_finds_a_norm_whose_parts_are_computed_twice():
    after = FuseLayerNorm()(module({"x": X}, {"gamma": G, "beta": G}, written_out))
    assert operators(after) == ["relax.nn.layer_norm"]


def test_finds_a_norm_without_beta(agree):
    def body(x, gamma):
        return op.multiply(op.divide(centred(x), root(x)), gamma)

    before = module({"x": X}, {"gamma": G}, body)
    after = FuseLayerNorm()(before)
    norm = after["main"].body.blocks[0].bindings[0].value
    assert operators(after) == ["relax.nn.layer_norm"]
    np.testing.assert_array_equal(norm.args[2].value.numpy(), np.zeros(24, "float32"))
    agree(before, after)


def test_finds_a_norm_in_front_of_a_norm():
    def body(x, gamma, beta):
        first = relax.BlockBuilder.current().emit(written_out(x, gamma, beta))
        return written_out(first, gamma, beta)

    after = FuseLayerNorm()(module({"x": X}, {"gamma": G, "beta": G}, body))
    assert operators(after) == ["relax.nn.layer_norm"] * 2


def test_names_every_operator_that_it_stands_for():
    before = module({"x": X}, {"gamma": G, "beta": G}, written_out)
    binding = FuseLayerNorm()(before)["main"].body.blocks[0].bindings[0]
    names = [b.var.name for b in before["main"].body.blocks[0].bindings if op_name(b.value)]
    assert binding.var.name == names[-1]
    assert set(sources(binding.value)) == set(names)


def refused(axis=(-1,), keepdims=True, gamma=G, x=X, dtype="float32"):
    """A module with one thing that a norm over the last axis does not do."""

    def body(x, gamma, beta):
        x, gamma, beta = (op.astype(v, dtype) for v in (x, gamma, beta))
        average = mean(x, axis, keepdims)
        eps = relax.const(1e-5, dtype)
        middle = op.subtract(x, average)
        power = op.power(middle, relax.const(2.0, dtype))
        spread = op.sqrt(op.add(mean(power, axis, keepdims), eps))
        return op.add(op.multiply(op.divide(middle, spread), gamma), beta)

    return module({"x": x}, {"gamma": gamma, "beta": gamma}, body)


@pytest.mark.parametrize(
    ("difference", "reason"),
    [
        ({"axis": (1,)}, "its mean runs over axes [1] of 3, not the last alone"),
        ({"axis": (1, 2)}, "its mean runs over axes [1, 2] of 3, not the last alone"),
        (
            {"keepdims": False, "x": (24, 24)},
            "its mean drops the axis that it runs over",
        ),
        ({"gamma": (3, 24)}, "gamma has shape [3, 24], a norm needs [24]"),
        ({"dtype": "float64"}, "its input is float64, a norm needs float32"),
    ],
    ids=["another_axis", "two_axes", "dropped_axis", "gamma_of_rank_2", "float64"],
)
def test_says_why_it_leaves_another_norm_alone(difference, reason, reasons):
    before = refused(**difference)
    assert FuseLayerNorm()(before).same_as(before)
    ((operators, said),) = reasons()
    assert said == reason
    assert operators[-1] == before["main"].body.blocks[0].bindings[-2].var.name


def test_leaves_a_division_by_another_deviation_alone(reasons):
    def body(x, y, gamma, beta):
        return op.add(op.multiply(op.divide(centred(x), root(y)), gamma), beta)

    before = module({"x": X, "y": X}, {"gamma": G, "beta": G}, body)
    assert FuseLayerNorm()(before).same_as(before)
    assert reasons() == []
