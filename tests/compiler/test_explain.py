"""Every operator of the source is accounted for: by a kernel, or by a reason why it needs none."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import pocketformer as pf
from tests.encoder import encoder


@pytest.fixture(scope="module")
def records():
    proto = encoder()
    bundle = pf.compile(proto, "host", dims={"seq": "1..32"})
    found = {record.name: record for record in bundle.manifest.operators}
    assert list(found) == [n.name for n in proto.graph.node if n.op_type != "Constant"]
    return found


def test_fused_operators_name_the_one_kernel_that_runs_them(records):
    attention = {"products_MatMul", "scores_Mul", "masked_Add", "weights_Softmax", "mixed_MatMul"}
    kernels = {records[name].kernel for name in attention}
    assert len(kernels) == 1
    assert "attention" in kernels.pop()


def test_an_epilogue_runs_in_its_gemm(records):
    epilogue = ("wide_product_MatMul", "wide_Add", "erf_Erf", "activated_Mul")
    kernels = {records[name].kernel for name in epilogue}
    assert len(kernels) == 1
    assert "gelu" in kernels.pop()


def test_element_wise_chains_are_named_too(records):
    assert records["embedded_Gather"].kernel
    assert records["hidden_keys_Sub"].kernel == records["low_Mul"].kernel


def test_what_needs_no_kernel_says_why(records):
    assert records["turned_Transpose"].kernel is None
    assert records["turned_Transpose"].note == "computed at compile time"
    assert records["merged_Reshape"].note == "a view, no kernel"


def test_every_operator_has_a_kernel_or_a_note(records):
    assert [record.name for record in records.values() if not (record.kernel or record.note)] == []


def test_every_operator_with_a_kernel_has_a_precision(records):
    assert {record.name for record in records.values() if bool(record.precision)} == {
        record.name for record in records.values() if bool(record.kernel)}
    assert records["hidden_keys_Sub"].precision == "float32"


def test_products_in_bfloat16_say_so():
    bundle = pf.compile(encoder(1, 8), "host", recipe="bfloat16")
    found = {record.name: record.precision for record in bundle.manifest.operators}
    assert {found[name] for name in ("query_product_MatMul", "out_product_MatMul")} == {"bfloat16"}
    assert found["y_LayerNormalization"] == "float32"
    assert found["merged_Reshape"] == ""


def precisions(nodes, inputs, output, sizes=(4, 4)):
    """What the operators of these nodes compute in."""
    given = [helper.make_tensor_value_info(name, kind, sizes) for name, kind in inputs.items()]
    out = helper.make_tensor_value_info(*output, sizes)
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    graph = helper.make_graph(nodes, "small", given, [out], [scale])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    records = pf.compile(proto, "host").manifest.operators
    return {record.kind: record.precision for record in records}


def test_a_product_of_floats_that_is_stored_in_few_bits_is_one_of_floats():
    nodes = [
        helper.make_node("Mul", ["x", "gate"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "scale"], ["q"], output_dtype=TensorProto.INT8),
    ]
    inputs = {"x": TensorProto.FLOAT, "gate": TensorProto.FLOAT}
    found = precisions(nodes, inputs, ("q", TensorProto.INT8))
    assert set(found.values()) == {"float32"}


def test_a_product_of_integers_that_is_stored_as_floats_is_one_of_integers():
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["products"]),
        helper.make_node("Cast", ["products"], ["y"], to=TensorProto.FLOAT),
    ]
    inputs = {"a": TensorProto.INT32, "b": TensorProto.INT32}
    assert precisions(nodes, inputs, ("y", TensorProto.FLOAT))["Mul"] == "int32"


def test_a_product_of_two_inputs_of_bytes_is_one_of_bytes():
    nodes = [helper.make_node("MatMulInteger", ["a", "b"], ["y"])]
    inputs = {"a": TensorProto.INT8, "b": TensorProto.INT8}
    assert precisions(nodes, inputs, ("y", TensorProto.INT32)) == {"MatMulInteger": "int8"}


def test_what_only_moves_numbers_says_which():
    nodes = [helper.make_node("Transpose", ["a"], ["y"])]
    found = precisions(nodes, {"a": TensorProto.INT8}, ("y", TensorProto.INT8))
    assert found == {"Transpose": "int8"}
