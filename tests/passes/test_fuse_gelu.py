"""GELU in every form in which models write it."""

import math

import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

from pocketformer.passes.fuse_gelu import FuseGelu
from pocketformer.passes.graph import op_name, sources
from tests.passes.graphs import module

ROOT = math.sqrt(2 / math.pi)


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((2, 3, 8), "float32")) -> R.Tuple(R.Tensor((2, 3, 8), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            scaled = R.divide(x, R.const(1.4142135, "float32"))
            erf = R.erf(scaled)
            shifted = R.add(erf, R.const(1.0, "float32"))
            gated = R.multiply(x, shifted)
            gelu = R.multiply(gated, R.const(0.5, "float32"))
            outputs = (gelu,)
            R.output(outputs)
        return outputs


@I.ir_module
class After:
    @R.function
    def main(x: R.Tensor((2, 3, 8), "float32")) -> R.Tuple(R.Tensor((2, 3, 8), "float32")):
        R.func_attr({"num_input": 1})
        with R.dataflow():
            gelu = R.nn.gelu(x)
            outputs = (gelu,)
            R.output(outputs)
        return outputs


def number(value):
    return relax.const(value, "float32")


def mul(*factors):
    product = factors[0]
    for factor in factors[1:]:
        product = op.multiply(product, factor)
    return product


def half_normal(x, root=math.sqrt(0.5)):
    return op.erf(mul(x, number(root)))


def cube(x):
    return op.add(x, mul(number(0.044715), op.power(x, number(3.0))))


def one_plus(value):
    return op.add(number(1.0), value)


EXACT = {
    "half_first": lambda x: mul(number(0.5), x, one_plus(half_normal(x))),
    "half_second": lambda x: mul(x, number(0.5), one_plus(half_normal(x))),
    "half_inside": lambda x: mul(x, mul(one_plus(half_normal(x)), number(0.5))),
    "gate_first": lambda x: mul(one_plus(half_normal(x)), mul(x, number(0.5))),
    "divided_by_two": lambda x: mul(op.divide(x, number(2.0)), one_plus(half_normal(x))),
    "multiplied_out": lambda x: mul(x, op.add(mul(half_normal(x), number(0.5)), number(0.5))),
    "few_digits": lambda x: mul(x, number(0.5), one_plus(half_normal(x, 0.7071))),
}
APPROXIMATE = {
    "power": lambda x: mul(number(0.5), x, one_plus(op.tanh(mul(number(ROOT), cube(x))))),
    "products": lambda x: mul(
        x,
        number(0.5),
        one_plus(op.tanh(mul(op.add(mul(x, x, x, number(0.044715)), x), number(0.7978846)))),
    ),
    "factored": lambda x: mul(
        number(0.5),
        x,
        one_plus(op.tanh(mul(x, number(ROOT), one_plus(mul(number(0.044715), x, x))))),
    ),
}


def operators(mod):
    return [op_name(b.value) for b in mod["main"].body.blocks[0].bindings if op_name(b.value)]


def test_finds_the_exact_form():
    tvm.ir.assert_structural_equal(FuseGelu()(Before), After)


@pytest.mark.parametrize("form", EXACT)
def test_finds_every_exact_form(form, agree):
    before = module({"x": (2, 3, 8)}, {}, EXACT[form])
    after = FuseGelu()(before)
    assert operators(after) == ["relax.nn.gelu"]
    if form != "few_digits":
        agree(before, after)


@pytest.mark.parametrize("form", APPROXIMATE)
def test_finds_every_tanh_form(form, agree):
    before = module({"x": (2, 3, 8)}, {}, APPROXIMATE[form])
    after = FuseGelu()(before)
    assert operators(after) == ["relax.nn.gelu_tanh"]
    agree(before, after)


def test_finds_the_gelu_of_a_gated_product():
    def body(x, up):
        return mul(EXACT["half_first"](x), up)

    after = FuseGelu()(module({"x": (3, 8), "up": (3, 8)}, {}, body))
    assert operators(after) == ["relax.nn.gelu", "relax.multiply"]


def test_finds_the_gelu_of_a_sum_and_a_product():
    def body(x, y):
        return EXACT["half_second"](relax.BlockBuilder.current().emit(op.add(x, mul(x, y))))

    after = FuseGelu()(module({"x": (3, 8), "y": (3, 8)}, {}, body))
    assert operators(after) == ["relax.multiply", "relax.add", "relax.nn.gelu"]


def test_keeps_the_name_and_all_sources():
    before = module({"x": (2, 3, 8)}, {}, EXACT["half_second"])
    after = FuseGelu()(before)
    names = [b.var.name for b in before["main"].body.blocks[0].bindings if op_name(b.value)]
    binding = after["main"].body.blocks[0].bindings[0]
    assert binding.var.name == names[-1]
    assert sources(binding.value) == tuple(names)


def test_keeps_a_symbolic_length():
    seq = tvm.tirx.Var("seq", "int64")
    after = FuseGelu()(module({"x": (1, seq, 8)}, {}, EXACT["half_first"]))
    assert operators(after) == ["relax.nn.gelu"]
    assert after["main"].ret_ty.fields[0].shape[1].same_as(after["main"].params[0].ty.shape[1])


def test_keeps_what_something_else_needs():
    def body(x):
        gate = relax.BlockBuilder.current().emit(half_normal(x))
        return [mul(x, number(0.5), one_plus(gate)), gate]

    after = FuseGelu()(module({"x": (2, 8)}, {}, body))
    assert operators(after) == ["relax.multiply", "relax.erf", "relax.nn.gelu"]


@pytest.mark.parametrize(
    "body",
    [
        lambda x, y: mul(y, number(0.5), one_plus(half_normal(x))),
        lambda x, y: mul(x, number(0.25), one_plus(half_normal(x))),
        lambda x, y: mul(x, number(0.5), one_plus(half_normal(x, 0.8))),
        lambda x, y: mul(x, number(0.5), one_plus(op.tanh(mul(cube(x), number(0.7))))),
    ],
    ids=["another_value_gated", "a_quarter", "another_erf_scale", "another_tanh_scale"],
)
def test_leaves_what_is_almost_a_gelu_alone(body):
    before = module({"x": (2, 8), "y": (2, 8)}, {}, body)
    assert FuseGelu()(before).same_as(before)
