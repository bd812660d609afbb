"""What exporters leave behind that computes nothing."""

import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from pocketformer.passes.fold_arithmetic import FoldArithmetic
from pocketformer.passes.graph import op_name, sources
from tests.passes.graphs import module

X = (2, 3, 8)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, "seq", 8), "float32"), w: R.Tensor((8, 8), "float32")
    ) -> R.Tuple(R.Tensor((1, 2, "seq", 4), "float32")):
        seq = T.int64()
        R.func_attr({"num_input": 1})
        with R.dataflow():
            product = R.matmul(x, w)
            scaled = R.multiply(product, R.const(1.0, "float32"))
            cast = R.astype(scaled, "float32")
            shifted = R.add(R.const(0.0, "float32"), cast)
            flat = R.reshape(shifted, R.shape([seq, 8]))
            heads = R.reshape(flat, R.shape([1, seq, 2, 4]))
            turned = R.permute_dims(heads, [0, 2, 1, 3])
            outputs = (turned,)
            R.output(outputs)
        return outputs


@I.ir_module
class After:
    @R.function
    def main(
        x: R.Tensor((1, "seq", 8), "float32"), w: R.Tensor((8, 8), "float32")
    ) -> R.Tuple(R.Tensor((1, 2, "seq", 4), "float32")):
        seq = T.int64()
        R.func_attr({"num_input": 1})
        with R.dataflow():
            product = R.matmul(x, w)
            heads = R.reshape(product, R.shape([1, seq, 2, 4]))
            turned = R.permute_dims(heads, [0, 2, 1, 3])
            outputs = (turned,)
            R.output(outputs)
        return outputs


def operators(mod):
    return [op_name(b.value) for b in mod["main"].body.blocks[0].bindings if op_name(b.value)]


def const(value, dtype="float32"):
    return relax.const(value, dtype)


def test_leaves_only_what_computes_something():
    tvm.ir.assert_structural_equal(FoldArithmetic()(Before), After)


NOTHING = {
    "times_one": lambda x: op.multiply(x, const(1.0)),
    "one_times": lambda x: op.multiply(const([1.0]), x),
    "plus_zero": lambda x: op.add(x, const([0.0] * 8)),
    "minus_zero": lambda x: op.subtract(x, const(0.0)),
    "over_one": lambda x: op.divide(x, const(1.0)),
    "to_the_one": lambda x: op.power(x, const(1.0)),
    "same_dtype": lambda x: op.astype(x, "float32"),
    "wider_and_back": lambda x: op.astype(op.astype(x, "float64"), "float32"),
    "same_shape": lambda x: op.reshape(x, X),
    "flat_and_back": lambda x: op.reshape(op.flatten(x), X),
    "longer_and_back": lambda x: op.squeeze(op.expand_dims(x, 0), [0]),
    "expanded_to_its_shape": lambda x: op.broadcast_to(x, X),
    "turned_twice": lambda x: op.permute_dims(op.permute_dims(x, [1, 2, 0]), [2, 0, 1]),
    "turned_over_twice": lambda x: op.permute_dims(op.permute_dims(x)),
    "turned_not_at_all": lambda x: op.permute_dims(x, [0, 1, 2]),
    "joined_alone": lambda x: op.concat([x], 0),
    "all_of_it": lambda x: op.strided_slice(x, [1], [0], [3], [1]),
    "chosen_always": lambda x: op.where(const(True, "bool"), x, const(0.0)),
    "chosen_otherwise": lambda x: op.where(const([False], "bool"), const(0.0), x),
    "three_in_a_row": lambda x: op.reshape(
        op.multiply(op.reshape(op.add(x, const(0.0)), (6, 8)), const(1.0)), X
    ),
}
SOMETHING = {
    "nearly_one": lambda x: op.multiply(x, const(1.00001)),
    "one_minus": lambda x: op.subtract(const(0.0), x),
    "one_over": lambda x: op.divide(const(1.0), x),
    "one_to_the": lambda x: op.power(const(1.0), x),
    "higher_rank": lambda x: op.multiply(x, const([[[[1.0]]]])),
    "another_dtype": lambda x: op.astype(x, "float16"),
    "narrower_and_back": lambda x: op.astype(op.astype(x, "float16"), "float32"),
    "another_shape": lambda x: op.reshape(x, (6, 8)),
    "expanded": lambda x: op.broadcast_to(x, (2, *X)),
    "a_part": lambda x: op.strided_slice(x, [1], [0], [2]),
    "sometimes_chosen": lambda x: op.where(const([True, False] * 4, "bool"), x, const(0.0)),
    "joined": lambda x: op.concat([x, x], 0),
    "turned": lambda x: op.permute_dims(x, [0, 2, 1]),
}


@pytest.mark.parametrize("form", NOTHING)
def test_leaves_out(form):
    after = FoldArithmetic()(module({"x": X}, {}, NOTHING[form]))
    assert operators(after) == []
    output = after["main"].body.blocks[0].bindings[-1].value.fields[0]
    assert output.same_as(after["main"].params[0])


@pytest.mark.parametrize("form", SOMETHING)
def test_keeps(form):
    before = module({"x": X}, {}, SOMETHING[form])
    assert FoldArithmetic()(before).same_as(before)


def test_keeps_a_reversal():
    # A slice from the end to the start has the shape of what it is taken from.
    before = module({"x": (8,)}, {}, lambda x: op.strided_slice(x, [0], [-1], [-9], [-1]))
    assert FoldArithmetic()(before).same_as(before)


def test_turns_once_for_twice(agree):
    def body(x):
        return op.permute_dims(op.permute_dims(x, [1, 2, 0]), [1, 0, 2])

    before = module({"x": (2, 3, 4)}, {}, body)
    after = FoldArithmetic()(before)
    assert operators(after) == ["relax.permute_dims"]
    agree(before, after)


def test_an_operator_stands_for_what_did_nothing_after_it():
    def body(x):
        return op.reshape(op.reshape(op.multiply(op.tanh(x), const(1.0)), (6, 8)), (8, 6))

    before = module({"x": X}, {}, body)
    tanh, scaled, inner, outer = [b.var.name for b in before["main"].body.blocks[0].bindings[:4]]
    after = FoldArithmetic()(before)
    found = [sources(binding.value) for binding in after["main"].body.blocks[0].bindings[:2]]
    assert found == [(tanh, scaled), (inner, outer)]
    assert after["main"].body.blocks[0].bindings[0].var.name == tanh


def test_keeps_the_first_of_two_reshapes_for_another_user():
    def body(x):
        flat = relax.BlockBuilder.current().emit(op.reshape(x, (6, 8)))
        return [op.reshape(flat, (3, 16)), op.tanh(flat)]

    after = FoldArithmetic()(module({"x": X}, {}, body))
    _, second, tanh = [b.value for b in after["main"].body.blocks[0].bindings[:3]]
    assert second.args[0].same_as(after["main"].params[0])
    assert operators(after) == ["relax.reshape", "relax.reshape", "relax.tanh"]
    assert tanh.args[0].same_as(after["main"].body.blocks[0].bindings[0].var)
