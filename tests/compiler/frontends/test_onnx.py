"""What an ONNX file becomes: names, weights, symbolic sizes that are exact, branches, functions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from pocketformer.compiler.errors import BadDim, BadModel
from pocketformer.compiler.frontends.onnx import load_onnx
from pocketformer.compiler.model import Dim
from tests.numerics.check import agrees_with_onnxruntime, compile_plainly

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def model(nodes, inputs, outputs=("y",), constants=None, functions=(), opset=17):
    """A ModelProto; `inputs` are {name: (dtype, shape)}, `constants` {name: array or ints}."""
    constants = {
        name: np.array(value, np.int64) if isinstance(value, (list, int)) else value
        for name, value in (constants or {}).items()
    }
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name, **attributes)


def random(*shape):
    return np.random.default_rng().standard_normal(shape, dtype=np.float32)


def bindings(imported):
    (block,) = imported.module["main"].body.blocks
    return block.bindings


# -- the form of the model -------------------------------------------------------------------------


def test_every_binding_bears_the_name_of_its_node():
    nodes = [
        node("MatMul", "x w", "a", "/layer.0/MatMul"),
        node("Relu", "a", "b", "7 up"),
        node("HardSwish", "b", "y"),
    ]
    imported = load_onnx(model(nodes, {"x": (FLOAT, [2, 8])}, constants={"w": random(8, 8)}))
    assert [operator.name for operator in imported.operators] == [
        "/layer.0/MatMul", "7 up", "HardSwish_3",
    ]    # fmt: skip
    assert {binding.value.span.source_name.name for binding in bindings(imported)} == {
        operator.name for operator in imported.operators
    }
    names = [binding.var.name for binding in bindings(imported)]
    assert len(set(names)) == len(names)
    assert {"layer_0_MatMul", "n7_up", "HardSwish_3"} <= set(names)
    assert all(name.isidentifier() for name in names)


def test_constants_of_more_than_16_elements_become_weights():
    nodes = [node("Mul", "x small", "a"), node("Add", "a big", "y")]
    imported = load_onnx(
        model(nodes, {"x": (FLOAT, [2, 17])}, constants={"small": random(1), "big": random(17)})
    )
    assert list(imported.weights) == ["big"]
    function = imported.module["main"]
    assert [param.name for param in function.params] == ["x", "big"]
    assert int(function.attrs["num_input"]) == 1


def test_a_weight_that_nothing_uses_is_left_out():
    nodes = [node("Relu", "x", "y"), node("Add", "x w", "unused")]
    imported = load_onnx(model(nodes, {"x": (FLOAT, [20])}, constants={"w": random(20)}))
    assert not imported.weights
    assert [operator.kind for operator in imported.operators] == ["Relu"]


def test_a_shared_weight_is_stored_once_and_a_transposed_one_only_transposed():
    table = np.zeros((1 << 11, 1 << 10), np.float32)    # 8 MiB: no copy is made of so much
    shared = model(
        [
            node("Gather", "table ids", "x"),
            node("Transpose", "table", "t", perm=[1, 0]),
            node("MatMul", "x t", "y"),
        ],
        {"ids": (INT64, [1, 3])},
        constants={"table": table},
    )
    assert {k: v.shape for k, v in load_onnx(shared).weights.items()} == {"table": table.shape}
    alone = model(
        [node("Transpose", "table", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        {"x": (FLOAT, [1, 1 << 10])},
        constants={"table": table},
    )
    ((_, stored),) = load_onnx(alone).weights.items()
    assert stored.shape == (1 << 10, 1 << 11)
    assert not stored.flags.owndata    # still the memory of the table


def test_the_result_is_a_tuple_even_of_an_input_or_a_constant():
    nodes = [node("Identity", "x", "y"), node("Identity", "w", "z")]
    proto = model(nodes, {"x": (FLOAT, ["n", 2])}, ["y", "z"], {"w": random(20)})
    imported = agrees_with_onnxruntime(proto, {"x": random(3, 2)})
    assert [spec.shape for spec in imported.outputs] == [("n", 2), (20,)]


def test_half_precision_and_bfloat16_weights_keep_their_dtype():
    for dtype in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        weight = helper.make_tensor("w", dtype, [4, 8], list(range(32)))
        proto = model([node("MatMul", "x w", "y")], {"x": (dtype, ["n", 4])})
        proto.graph.initializer.append(weight)
        (array,) = load_onnx(proto).weights.values()
        assert array.dtype == helper.tensor_dtype_to_np_dtype(dtype)
        np.testing.assert_array_equal(array.astype(np.float32).ravel(), range(32))


# -- sizes -----------------------------------------------------------------------------------------


def test_the_files_dimensions_are_the_default():
    proto = model([node("Relu", "x", "y")], {"x": (FLOAT, ["batch", None, "a b", 4])})
    imported = load_onnx(proto)
    assert imported.inputs[0].shape == ("batch", "x_1", "a_b", 4)
    assert imported.dims == {"batch": Dim(), "x_1": Dim(), "a_b": Dim()}


@pytest.mark.parametrize("key", ["n", "x.n", "x.0"])
def test_a_dimension_can_be_fixed_by_its_name_and_by_its_place(key):
    proto = model([node("Add", "x z", "y")], {"x": (FLOAT, ["n", 4]), "z": (FLOAT, ["n", 4])})
    imported = load_onnx(proto, {key: Dim(5, 5)})
    assert [spec.shape for spec in imported.inputs + imported.outputs] == [(5, 4)] * 3
    assert not imported.dims


def test_dimensions_that_the_file_fixes_can_be_freed_together():
    proto = model([node("Add", "x z", "y")], {"x": (FLOAT, [1, 8]), "z": (FLOAT, [1, 8])})
    imported = load_onnx(proto, {"x.1": Dim(1, 32), "z.1": Dim(1, 32)})
    assert [spec.shape for spec in imported.inputs] == [(1, "x_1"), (1, "x_1")]
    assert imported.dims == {"x_1": Dim(1, 32)}


def test_an_axis_that_is_named_as_a_sum_is_that_sum():
    inputs = {"x": (FLOAT, [1, "past + seq"]), "a": (FLOAT, [1, "past"]), "b": (FLOAT, [1, "seq"])}
    nodes = [node("Concat", "a b", "c", axis=1), node("Add", "x c", "y")]
    imported = agrees_with_onnxruntime(
        model(nodes, inputs), {"x": random(1, 7), "a": random(1, 3), "b": random(1, 4)}
    )
    assert set(imported.dims) == {"past", "seq"}


@pytest.mark.parametrize("key", ["len", "x.3", "z.0", "x.len", ""])
def test_an_unknown_dimension_is_refused_with_the_models_own(key):
    proto = model([node("Relu", "x", "y")], {"x": (FLOAT, ["batch", "seq"])})
    with pytest.raises(BadDim, match=r"no dimension .*; its dimensions are batch, seq, its axes x"):
        load_onnx(proto, {key: Dim(2, 2)})


def test_two_contradicting_sizes_are_refused():
    proto = model([node("Relu", "x", "y")], {"x": (FLOAT, ["batch", "seq"])})
    with pytest.raises(BadDim, match="'seq' is said to be 4 and also 5"):
        load_onnx(proto, {"seq": Dim(4, 4), "x.1": Dim(5, 5)})


def positions(*rest, dims=("seq",)):
    """Looks up a position for each of x's first axis in a table of 64."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "length", axis=0),
        *rest,
        node("Add", "x p", "y"),
    ]
    constants = {"zero": 0, "one": 1, "from": [0], "back": [0], "table": random(64, 4)}
    return model(nodes, {"x": (FLOAT, [*dims, 4])}, constants=constants)


SLICED = [
    node("Unsqueeze", "length back", "to"),
    node("Slice", "table from to", "p"),
]
LOOKED_UP = [
    node("Range", "zero length one", "r"),
    node("Gather", "table r", "p", axis=0),
]


@pytest.mark.parametrize("form", [SLICED, LOOKED_UP], ids=["sliced", "looked up"])
def test_a_table_of_positions_limits_the_sequence(form):
    proto = positions(*form)
    assert load_onnx(proto).dims == {"seq": Dim(1, 64)}
    assert load_onnx(proto, {"seq": Dim(2, None)}).dims == {"seq": Dim(2, 64)}
    with pytest.raises(BadDim, match=r"'seq' was asked to go up to 65, .* ends at 64"):
        load_onnx(proto, {"seq": Dim(1, 65)})
    agrees_with_onnxruntime(proto, {"x": random(1, 4)}, {"x": random(64, 4)})


def test_reshapes_by_computed_sizes_are_exact():
    """The way exporters split heads: sizes come from Shape, Gather, Concat, Mul, Div and Where."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "b", axis=0),
        node("Gather", "s one", "n", axis=0),
        node("Gather", "s two", "w", axis=0),
        node("Div", "w heads", "h"),
        node("Cast", "h", "h32", to=TensorProto.INT32),
        node("Cast", "h32", "h64", to=INT64),
        *(node("Unsqueeze", f"{size} axis", f"{size}1") for size in ("b", "n", "heads", "h64")),
        node("Unsqueeze", "w axis", "w1"),
        node("Concat", "b1 n1 heads1 h641", "split", axis=0),
        node("Reshape", "x split", "a"),
        node("Transpose", "a", "t", perm=[0, 2, 1, 3]),
        node("Mul", "b heads", "bh"),
        node("Unsqueeze", "bh axis", "bh1"),
        node("Concat", "bh1 minus h641", "merged", axis=0),
        node("Reshape", "t merged", "m"),
        node("Equal", "split minus", "is_minus"),
        node("Where", "is_minus split split", "same"),
        node("Reshape", "m same", "back"),
        node("Transpose", "back", "u", perm=[0, 1, 2, 3]),
        node("Concat", "b1 minus w1", "flat", axis=0),
        node("Reshape", "u flat", "y"),
    ]
    constants = {"zero": 0, "one": 1, "two": 2, "heads": 4, "axis": [0], "minus": [-1]}
    proto = model(nodes, {"x": (FLOAT, ["batch", "seq", 8])}, constants=constants)
    imported = agrees_with_onnxruntime(proto, {"x": random(1, 5, 8)}, {"x": random(3, 2, 8)})
    assert imported.outputs[0].shape == ("batch", "seq", 8)
    calls = [binding.value for binding in bindings(imported) if hasattr(binding.value, "op")]
    assert {call.op.name for call in calls} == {"relax.reshape", "relax.permute_dims"}


DROPPING = """
<ir_version: 8, opset_import: ["": 17]>
g (float[1, SEQ, 20] x) => (float[A, B, 40] y) {
    sizes = Constant<value = int64[3] {0, -1, 40}>()
    y = Reshape(x, sizes)
}
"""


@pytest.mark.parametrize("seq", ["S", 3])
def test_a_reshape_that_would_drop_numbers_is_refused(seq):
    proto = parser.parse_model(DROPPING.replace("SEQ", str(seq)))
    with pytest.raises(BadModel, match="cannot reshape"):
        load_onnx(proto)


def test_masks_are_made_from_sizes():
    """A causal mask: Range, Less, Expand, Where, ConstantOfShape, Trilu on symbolic sizes."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s one", "n", axis=0),
        node("Range", "zero n one", "r"),
        node("Unsqueeze", "r last", "rows"),
        node("LessOrEqual", "r rows", "kept"),
        node("Unsqueeze", "n first", "n1"),
        node("Concat", "n1 n1", "square", axis=0),
        node("ConstantOfShape", "square", "full", value=numpy_helper.from_array(np.float32([-9]))),
        node("Trilu", "full one", "upper"),
        node("Where", "kept upper low", "mask"),
        node("Shape", "mask", "wide"),
        node("Expand", "bias wide", "spread"),
        node("Add", "mask spread", "m"),
        node("Add", "x m", "z"),
        node("Cast", "n", "nf", to=FLOAT),
        node("Sqrt", "nf", "root"),
        node("Div", "z root", "y"),
    ]
    constants = {
        "zero": 0, "one": 1, "first": [0], "last": [1],
        "low": np.float32(-3), "bias": np.float32([[0.5]]),
    }    # fmt: skip
    proto = model(nodes, {"x": (FLOAT, ["seq", "seq"])}, constants=constants)
    agrees_with_onnxruntime(proto, {"x": random(5, 5)}, {"x": random(1, 1)})


def test_dimensions_that_have_to_be_equal_become_one():
    nodes = [node("Add", "x z", "s"), node("Add", "s t", "y")]
    inputs = {"x": (FLOAT, ["a", 4]), "z": (FLOAT, ["b", 4]), "t": (FLOAT, ["c", 4])}
    proto = model(nodes, inputs)
    imported = load_onnx(proto, {"a": Dim(1, 9), "b": Dim(2, 20)})
    assert imported.dims == {"a": Dim(2, 9)}
    agrees_with_onnxruntime(proto, {name: random(3, 4) for name in inputs})
    with pytest.raises(BadDim, match="must be equal"):
        load_onnx(proto, {"a": Dim(1, 3), "c": Dim(4, 8)})


def test_a_dimension_that_has_to_be_a_number_is_that_number():
    constants = {"w": random(5, 4)}
    proto = model([node("Add", "x w", "y")], {"x": (FLOAT, ["a", 4])}, constants=constants)
    assert load_onnx(proto).inputs[0].shape == (5, 4)
    with pytest.raises(BadDim, match=r"'a' cannot be 1\.\.9: the model needs 5"):
        load_onnx(proto, {"a": Dim(1, 9)})


def test_padding_and_tiling_by_symbolic_amounts():
    nodes = [
        node("Shape", "x", "s"),
        node("Concat", "zeros s", "pads", axis=0),
        node("Pad", "x pads", "p"),
        node("Tile", "p s", "y"),
    ]
    proto = model(nodes, {"x": (FLOAT, ["n", 2])}, constants={"zeros": [0, 1]})
    agrees_with_onnxruntime(proto, {"x": random(3, 2)}, {"x": random(1, 2)})


def test_token_ids_outside_the_table_read_no_foreign_memory():
    proto = model(
        [node("Gather", "table ids", "y")],
        {"ids": (INT64, ["n"])},
        constants={"table": random(9, 5)},
    )
    agrees_with_onnxruntime(proto, {"ids": np.array([0, 8, -1, -9])})
    imported = load_onnx(proto)
    compiled = compile_plainly(imported)
    (result,) = compiled({"ids": np.array([9, 1 << 40, -(1 << 40)])})
    assert {tuple(row) for row in result} <= {tuple(row) for row in imported.weights["table"]}


# -- subgraphs and functions -----------------------------------------------------------------------


def branch(op):
    return helper.make_graph(
        [node(op, "x", f"{op}_out")], op, [], [helper.make_empty_tensor_value_info(f"{op}_out")]
    )


@pytest.mark.parametrize("size", [1, 3])
def test_an_if_whose_condition_follows_from_the_sizes_is_its_branch(size):
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Equal", "n one", "c"),
        node("If", "c", "y", then_branch=branch("Relu"), else_branch=branch("Tanh")),
    ]
    proto = model(nodes, {"x": (FLOAT, [size, 40])}, constants={"zero": 0, "one": 1})
    imported = agrees_with_onnxruntime(proto, {"x": random(size, 40)})
    assert imported.operators[-2].kind == ("Relu" if size == 1 else "Tanh")


def test_functions_of_the_model_are_inlined():
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    nodes = [helper.make_node("Twice", ["x"], ["t"], domain="local"), node("Relu", "t", "y")]
    proto = model(nodes, {"x": (FLOAT, ["n", 40])}, functions=[function])
    agrees_with_onnxruntime(proto, {"x": random(3, 40)})
