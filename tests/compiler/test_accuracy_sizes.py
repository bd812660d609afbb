"""Answers are compared at the data's own sizes, whatever size the bundle is compiled for."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import pocketformer as pf

WORDS, LONGEST, SIZE = 40, 24, 32


def positioned():
    """A linear layer on the sum of two lookups: of ids [1, seq], and of their places."""
    rng = np.random.default_rng()
    constants = {
        "words": rng.standard_normal((WORDS, SIZE), "float32"),
        "places": rng.standard_normal((LONGEST, SIZE), "float32"),
        "weight": rng.standard_normal((SIZE, SIZE), "float32"),
        "zero": np.int64(0), "one": np.int64(1),
    }
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["word"]),
        helper.make_node("Shape", ["ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["at"]),
        helper.make_node("Gather", ["places", "at"], ["place"]),
        helper.make_node("Add", ["word", "place"], ["x"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "positioned",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, (1, "seq"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, "seq", SIZE))],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def batches(*lengths):
    rng = np.random.default_rng()
    return [{"ids": rng.integers(0, WORDS, (1, length))} for length in lengths]


def test_a_fixed_size_that_settles_a_lookup_takes_data_of_other_sizes():
    accuracy = pf.Accuracy(max_drop=0.5, data=batches(5, 9))
    recipe = pf.Int8(calibration=batches(6, 8, 11))
    bundle = pf.compile(positioned(), recipe=recipe, accept=accuracy, dims={"seq": 16})
    report = bundle.manifest.accuracy
    assert report.batches == 2
    assert report.choices[report.chosen].drop < 0.01
    kinds = [record.kind for record in bundle.manifest.operators if record.precision == "int8"]
    assert "MatMul" in kinds
