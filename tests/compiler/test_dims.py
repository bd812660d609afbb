"""Fixing, limiting and specialising symbolic dimensions of a Model."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from pocketformer.compiler.dims import axes_of, specialise
from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.frontends.onnx import load_onnx
from pocketformer.compiler.model import Dim, Model
from tests.numerics.check import compile_plainly


@pytest.fixture(scope="module")
def model() -> Model:
    """y = x joined with itself along seq, over [batch, seq, 3]; seq lies in 2..64."""
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=1)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, 3])
    graph = helper.make_graph([node], "joined", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return load_onnx(proto, {"seq": Dim(2, 64)})


def test_a_size_that_follows_from_others_is_a_formula(model):
    assert model.outputs[0].shape == ("batch", "seq * 2", 3)


def test_a_fixed_dimension_is_a_number_everywhere(model):
    fixed = model.with_dims({"seq": 8})
    assert fixed.inputs[0].shape == ("batch", 8, 3)
    assert fixed.outputs[0].shape == ("batch", 16, 3)
    assert list(fixed.dims) == ["batch"]
    assert "seq" not in fixed.module.script()


def test_a_model_with_fixed_dimensions_computes_the_same(model):
    x = np.random.default_rng().standard_normal((2, 5, 3), dtype=np.float32)
    (result,) = compile_plainly(model.with_dims({"batch": 2, "x.1": 5}))({"x": x})
    np.testing.assert_array_equal(result, np.concatenate([x, x], 1))


@pytest.mark.parametrize("key", ["seq", "x.seq", "x.1"])
def test_a_dimension_goes_by_its_name_and_by_its_place(model, key):
    assert model.with_dims({key: "4..16"}).dims["seq"] == Dim(4, 16)


def test_buckets_are_kept_for_the_compiler(model):
    assert model.with_dims({"batch": "1,2,4"}).dims["batch"].buckets == (1, 2, 4)


def test_an_open_range_ends_where_the_model_does(model):
    assert model.with_dims({"seq": "2.."}).dims["seq"] == Dim(2, 64)


def test_the_model_itself_is_not_changed(model):
    model.with_dims({"seq": 8})
    assert model.inputs[0].shape == ("batch", "seq", 3)
    assert set(model.dims) == {"batch", "seq"}


def test_unknown_dimension_lists_the_models_own(model):
    with pytest.raises(BadDim, match=r"no dimension 'len'; .*batch .*seq \(2\.\.64\).*x\.0"):
        model.with_dims({"len": 8})


@pytest.mark.parametrize("size", ["65", "1", "1..8", "8..100", "16,128"])
def test_sizes_outside_the_models_range_are_refused(model, size):
    with pytest.raises(BadDim, match=r"'seq' is 2\.\.64"):
        model.with_dims({"seq": size})


def test_a_dimension_that_the_model_fixes_stays(model):
    assert model.with_dims({"x.2": 3}).inputs[0].shape == ("batch", "seq", 3)
    with pytest.raises(BadDim, match=r"'x\.2' is 3 in the model, it cannot become 4"):
        model.with_dims({"x.2": 4})


def test_two_names_of_one_dimension_must_agree(model):
    with pytest.raises(BadDim, match="said to be 4 and also 5"):
        model.with_dims({"seq": 4, "x.1": 5})


def test_specialising_fixes_only_what_is_given(model):
    function = specialise(model, {"seq": 16})["main"]
    assert axes_of(function.params[0].ty) == ("batch", 16, 3)


def test_specialising_to_a_size_outside_the_range_is_refused(model):
    with pytest.raises(BadDim, match=r"'seq' is 2\.\.64, it cannot be 65"):
        specialise(model, {"seq": 65})
