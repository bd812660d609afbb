"""What is wrong with a file is said in one sentence; nothing malformed gets further than that."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx import load_onnx
from tests.compiler.frontends.test_onnx import FLOAT, INT64, branch, model, node, random
from tests.numerics.check import agrees_with_onnxruntime


def simple():
    """y = x @ w; w has 16 KiB and so is mapped from a file."""
    nodes = [node("MatMul", "x w", "y", "product")]
    return model(nodes, {"x": (FLOAT, ["n", 64])}, constants={"w": random(64, 64)})


def refused(proto, words, kind=BadModel):
    with pytest.raises(kind) as caught:
        load_onnx(proto)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- files -----------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    refused(tmp_path / "absent.onnx", "there is no file")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", "is empty")


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip archive", b"not onnx\n" * 99, bytes(5000)])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "other.onnx").write_bytes(content)
    refused(tmp_path / "other.onnx", "")


def test_a_truncated_file_is_refused_at_whatever_byte_it_ends(tmp_path):
    content, path = simple().SerializeToString(), tmp_path / "cut.onnx"
    for end in [1, 2, 5, 10, 20, 50, 100, 1000, len(content) // 2, len(content) - 20]:
        path.write_bytes(content[:end])
        refused(path, "")


def test_weights_are_mapped_from_the_file_and_not_copied(tmp_path):
    path = tmp_path / "model.onnx"
    proto = simple()
    onnx.save(proto, path)
    (weight,) = load_onnx(path).weights.values()
    assert isinstance(weight, np.memmap)
    np.testing.assert_array_equal(weight, onnx.numpy_helper.to_array(proto.graph.initializer[0]))
    agrees_with_onnxruntime(str(path), {"x": random(3, 64)})


def test_loading_takes_less_than_twice_the_weights_of_memory(tmp_path):
    path = tmp_path / "large.onnx"
    megabytes = 32
    table = np.zeros((megabytes, 1 << 18), np.float32)
    nodes = [node("Gather", "table ids", "y")]
    onnx.save(model(nodes, {"ids": (INT64, ["n"])}, constants={"table": table}), path)
    script = (
        "import resource, sys\n"
        "from pocketformer.compiler.frontends.onnx import load_onnx\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "load_onnx(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run(
        [sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True
    ).stdout
    assert int(grown) / 1024 < 1.2 * megabytes


@pytest.fixture
def external(tmp_path):
    """The simple model with its weight in a file of its own: the paths of both."""
    path = tmp_path / "model.onnx"
    onnx.save(
        simple(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path, tmp_path / "weights.bin"


def test_external_data_is_mapped(external):
    path, _ = external
    (weight,) = load_onnx(path).weights.values()
    assert isinstance(weight, np.memmap)
    agrees_with_onnxruntime(str(path), {"x": random(3, 64)})


def test_missing_external_data_names_the_file_and_the_tensor(external):
    path, data = external
    data.unlink()
    refused(path, "weights.bin' with the data of tensor 'w' is missing")


def test_external_data_that_ends_early_is_refused(external):
    path, data = external
    data.write_bytes(data.read_bytes()[:-1])
    refused(path, "'weights.bin' ends before the data of tensor 'w'")


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/passwd", "a/../../b", "", "..\\w"])
def test_external_data_outside_the_models_folder_is_refused(external, place):
    path, _ = external
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    path.write_bytes(proto.SerializeToString())
    refused(path, "outside the model's folder")


@pytest.mark.parametrize(("key", "value"), [("offset", "-4"), ("offset", "x"), ("length", "7")])
def test_external_data_at_a_broken_place_is_refused(external, key, value):
    path, _ = external
    proto = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry.value for entry in proto.graph.initializer[0].external_data}
    del proto.graph.initializer[0].external_data[:]
    for name, text in {**entries, key: value}.items():
        proto.graph.initializer[0].external_data.add(key=name, value=text)
    path.write_bytes(proto.SerializeToString())
    refused(path, "'w'")


# -- graphs ----------------------------------------------------------------------------------------


def test_all_unsupported_operators_are_named_at_once():
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], "first", domain="my"),
        helper.make_node("Foo", ["a"], ["b"], "second", domain="my"),
        node("StringNormalizer", "b", "y"),
    ]
    refused(
        model(nodes, {"x": (FLOAT, [2])}),
        "operators 'my.Foo' (2 nodes, first 'first') and 'StringNormalizer' (1 node, "
        "first without a name) are not supported",
        UnsupportedOperator,
    )


def test_an_unsupported_operator_in_a_branch_is_named_too():
    nodes = [node("If", "c", "y", then_branch=branch("Relu"), else_branch=branch("Unique"))]
    proto = model(nodes, {"c": (TensorProto.BOOL, []), "x": (FLOAT, [2])})
    refused(proto, "operator 'Unique' (1 node", UnsupportedOperator)


def test_an_if_that_depends_on_the_data_is_refused():
    nodes = [node("If", "c", "y", "choice", then_branch=branch("Relu"), else_branch=branch("Tanh"))]
    proto = model(nodes, {"c": (TensorProto.BOOL, []), "x": (FLOAT, [2])})
    refused(proto, "node 'choice' (If): its condition depends on the input's data")


def test_a_shape_that_depends_on_the_data_is_refused_by_node():
    nodes = [node("Reshape", "x s", "y", "bad")]
    proto = model(nodes, {"x": (FLOAT, [4]), "s": (INT64, [2])})
    words = "node 'bad' (Reshape): its shape depends on the input's data"
    refused(proto, words, UnsupportedOperator)


def test_sizes_that_nothing_makes_equal_are_refused():
    nodes = [node("Concat", "x x", "xx", axis=0), node("Add", "x xx", "y", "sum")]
    proto = model(nodes, {"x": (FLOAT, ["n", 4])})
    refused(proto, "node 'sum' (Add): the sizes n * 2 and n have to be equal", UnsupportedOperator)


X = {"x": (FLOAT, [2, 4])}
BROKEN = {
    "an undefined input": (model([node("Relu", "z", "y")], X), "uses 'z', which nothing makes"),
    "unsorted nodes": (model([node("Relu", "a", "y"), node("Tanh", "x", "a")], X), "unsorted"),
    "a cycle": (model([node("Add", "x b", "a"), node("Relu", "a", "b")], X, ["b"]), "a cycle"),
    "a name made twice": (
        model([node("Relu", "x", "y"), node("Tanh", "x", "y")], X), "makes 'y', which is there",
    ),
    "an output of nothing": (model([node("Relu", "x", "a")], X), "output 'y' is made by nothing"),
    "no outputs": (model([node("Relu", "x", "y")], X, []), "no graph with outputs"),
    "a wrong attribute type": (
        model([node("Softmax", "x", "y", axis="one")], X), "node 'Softmax_1' (Softmax)",
    ),
    "an axis out of range": (
        model([node("Softmax", "x", "y", "s", axis=7)], X),
        "node 's' (Softmax): axis 7 is outside a tensor of rank 2",
    ),
    "a missing input": (model([node("MatMul", "x", "y")], X), "node 'MatMul_1' (MatMul)"),
    "shapes that do not fit": (
        model([node("Add", "x w", "y", "sum")], X, constants={"w": random(3)}),
        "node 'sum' (Add): sizes 4 and 3 do not fit together",
    ),
    "an impossible reshape": (
        model([node("Reshape", "x s", "y")], X, constants={"s": [3, -1]}), "cannot reshape",
    ),
    "a huge tile": (
        model([node("Tile", "x r", "y")], X, constants={"r": [1 << 20, 1 << 20]}),
        "its result would have the shape (2097152, 4194304)",
    ),
    "a huge constant": (
        model([node("ConstantOfShape", "s", "y")], {}, constants={"s": [1 << 40]}),
        "its result would have the shape (1099511627776,)",
    ),
    "a step of zero": (
        model([node("Conv", "x w", "y", strides=[0])], {"x": (FLOAT, [1, 2, 9])},
              constants={"w": random(2, 2, 3)}), "strides are [0]",
    ),
    "an old opset": (
        model([node("Relu", "x", "y")], X, opset=9), "opset 9; export it with opset 11 or later",
    ),
    "text": (model([node("Identity", "x", "y")], {"x": (TensorProto.STRING, [1])}), "dtype string"),
}    # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_malformed_graph_is_refused(fault):
    refused(*BROKEN[fault])


def test_an_initializer_of_another_length_is_refused():
    proto = simple()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    refused(proto, "tensor 'w' of shape (64, 64) needs 16384 bytes of float32 and has 16380")


def test_a_negative_size_is_refused():
    proto = simple()
    proto.graph.initializer[0].dims[0] = -64
    refused(proto, "tensor 'w' has a negative size")


def test_an_input_without_a_shape_is_refused():
    proto = simple()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    refused(proto, "input 'x' has no shape")


def test_a_model_without_an_opset_is_refused():
    proto = simple()
    del proto.opset_import[:]
    refused(proto, "does not say which ONNX opset")


def test_an_empty_model_is_refused():
    refused(onnx.ModelProto(), "no graph")


def test_a_function_that_calls_itself_is_refused():
    body = [helper.make_node("Again", ["a"], ["b"], domain="local")]
    function = helper.make_function("local", "Again", ["a"], ["b"], body, [])
    nodes = [helper.make_node("Again", ["x"], ["y"], domain="local")]
    refused(model(nodes, X, functions=[function]), "function 'Again' of the model calls itself")


def test_deeply_nested_branches_are_refused():
    graph = branch("Relu")
    for _ in range(40):
        inner = node("If", "c", "y", then_branch=graph, else_branch=graph)
        graph = helper.make_graph([inner], "g", [], [helper.make_empty_tensor_value_info("y")])
        if len(graph.SerializeToString()) > 1 << 20:
            break
    proto = model(list(graph.node), {"c": (TensorProto.BOOL, []), "x": (FLOAT, [2])})
    refused(proto, "")
