"""A bundle tells every kernel call: its source operators, its operations and its bytes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

import pocketformer as pf
from pocketformer.compiler.axes import evaluate
from pocketformer.compiler.profiling.attribution import kernels_of
from tests import zoo
from tests.compiler.test_manifest import signed
from tests.encoder import encoder, inputs

# workload or kind | source operators | operations | bytes
GOLDEN = """
lookup | embedded_Gather | 0 | (seq * 136) + (min(1600, (seq * 32)) * 4)
layernorm_anyx32_bias | x_LayerNormalization | seq * 256 | (seq * 256) + 256
other | kept_Cast, hidden_keys_Sub, low_Mul | seq * 2 | seq * 12
linear_anyx96x32_bias | query_product_MatMul, query_sum_Add, key_product_MatMul, \
value_product_MatMul | seq * 6144 | (seq * 512) + 12672
attention_1xanyxany_4x8_maskk_packed | query_Transpose, key_Transpose, value_Transpose, \
products_MatMul, scores_Mul, masked_Add, weights_Softmax, mixed_MatMul, back_Transpose | \
(seq * seq) * 128 | seq * 516
linear_anyx32x32_residual | out_product_MatMul, attended_Add | seq * 2048 | (seq * 384) + 4096
layernorm_anyx32_bias | y_LayerNormalization | seq * 256 | (seq * 256) + 256
linear_anyx64x32_bias_gelu | wide_product_MatMul, wide_Add, divided_Div, erf_Erf, shifted_Add, \
gated_Mul, activated_Mul | seq * 4096 | (seq * 384) + 8448
linear_anyx32x64_residual | narrow_MatMul, hidden_Add | seq * 4096 | (seq * 512) + 8192
"""
PRODUCTS = ("linear", "attention", "batch_matmul", "matmul")


def lines(bundle: pf.Bundle) -> list[str]:
    operators = bundle.manifest.operators
    return [
        " | ".join([
            record.workload or record.kind,
            ", ".join(operators[place].name for place in record.operators),
            str(record.operations),
            str(record.bytes),
        ])
        for record in bundle.manifest.kernels
    ]


def test_the_records_of_a_small_encoder():
    bundle = pf.compile(encoder(), "arm64-linux", dims={"seq": "1..64"})
    assert lines(bundle) == GOLDEN.strip().splitlines()


def called(bundle: pf.Bundle, given: dict[str, np.ndarray]) -> list[str]:
    """The kernels that the virtual machine really calls."""
    (run,) = pf.Session(bundle, threads=1).profile(given, 1)
    return [name for name, _, _ in kernels_of(run)]


def recorded(bundle: pf.Bundle, entry: str) -> list[str]:
    return [each.function for each in bundle.manifest.kernels if each.entry == entry]


def test_every_entry_tells_the_calls_that_it_makes():
    bundle = pf.compile(encoder(), "host", dims={"seq": "4,16"})
    for seq, entry in ((4, "main_seq_4"), (16, "main_seq_16"), (7, "main")):
        assert called(bundle, inputs(1, seq)) == recorded(bundle, entry) != []


def test_a_fixed_entry_s_costs_are_the_symbolic_one_s_at_its_size():
    manifest = pf.compile(encoder(), "host", dims={"seq": "4,16"}).manifest
    by_entry = {
        entry.function: [
            [evaluate(each.operations, {"seq": 16}), evaluate(each.bytes, {"seq": 16})]
            for each in manifest.kernels if each.entry == entry.function
        ]
        for entry in manifest.entries
    }
    small, large = np.array(by_entry["main"]), np.array(by_entry["main_seq_16"])
    np.testing.assert_array_equal(small[:, 0], large[:, 0])
    np.testing.assert_allclose(small[:, 1], large[:, 1], rtol=0.2)    # another tile, more padding


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("zoo")
    paths = {name: folder / f"{name}.onnx" for name in ("bert", "llama", "mobilevit")}
    for name, path in paths.items():
        zoo.export(zoo.BY_NAME[name], "dynamo", dynamic=True, path=path)
    return paths


# The operators of which at least one must be behind a kernel of this kind.
BEHIND = {
    "linear": {"MatMul", "Gemm", "Conv"},      # of patches, or of single places
    "attention": {"MatMul", "Softmax"},
    "layernorm": {"LayerNormalization", "ReduceMean"},
    "rmsnorm": {"ReduceMean", "SimplifiedLayerNormalization", "RMSNormalization"},
    "convolution": {"Conv"},
    "lookup": {"Gather", "GatherND"},
}


@pytest.mark.parametrize("name", ["bert", "llama", "mobilevit"])
def test_every_call_of_a_real_model_is_explained(exported, name):
    bundle = pf.compile(exported[name])
    given = zoo.BY_NAME[name].inputs(2, 12)
    assert called(bundle, given) == recorded(bundle, "main")
    sizes = {"batch": 2, "seq": 12}
    for record in bundle.manifest.kernels:
        kinds = {bundle.manifest.operators[place].kind for place in record.operators}
        assert kinds & BEHIND.get(record.kind, kinds), record
        assert evaluate(record.operations, sizes) >= 0
        assert evaluate(record.bytes, sizes) > 0


def matmul_operations(proto: onnx.ModelProto) -> int:
    """2 m n k of every MatMul and Gemm, by ONNX's own shapes."""
    graph = shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    shapes |= {each.name: list(each.dims) for each in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            turned = any(each.name == "transA" and each.i for each in node.attribute)
            k = shapes[node.input[0]][-2 if turned else -1]
            total += 2 * int(np.prod(shapes[node.output[0]])) * k
    assert total > 0
    return total


def products(bundle: pf.Bundle) -> int:
    return sum(each.operations for each in bundle.manifest.kernels if each.kind in PRODUCTS)


def test_operations_are_those_of_the_source_s_products():
    proto = encoder(seq=24)
    assert products(pf.compile(proto, "host")) == matmul_operations(proto)


def test_operations_of_a_real_model_are_those_of_its_products(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    path = tmp_path / "bert.onnx"
    zoo.export(zoo.BY_NAME["bert"], "dynamo", dynamic=False, path=path)
    assert products(pf.compile(path)) == matmul_operations(onnx.load(path))


def single(node: onnx.NodeProto, given: dict[str, tuple[int, ...]], weights: dict[str, np.ndarray],
           out: tuple[int, ...]) -> pf.Bundle:
    """The bundle of one operator."""
    def value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node], "single", [value(*each) for each in given.items()], [value("y", out)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return pf.compile(helper.make_model(graph, opset_imports=opsets, ir_version=9), "host")


def test_a_convolution_costs_its_multiply_adds():
    weight = np.ones((5, 3, 3, 3), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], name="conv")
    bundle = single(node, {"x": (2, 3, 8, 8)}, {"w": weight}, (2, 5, 8, 8))
    assert sum(each.operations for each in bundle.manifest.kernels) == 2 * (2 * 5 * 8 * 8) * 27
    assert [each.kind for each in bundle.manifest.kernels] == ["convolution"]
    (record,) = bundle.manifest.kernels
    assert record.bytes == 4 * (2 * 3 * 8 * 8 + 5 * 27 + 2 * 5 * 8 * 8)


def test_a_lookup_reads_rows_and_not_the_table():
    proto = encoder(seq=3)
    lookup = pf.compile(proto, "host").manifest.kernels[0]
    assert lookup.kind == "lookup"
    assert lookup.bytes == 3 * 8 + 2 * 3 * 32 * 4    # ids, rows read, rows written


def test_a_broadcast_operand_is_read_once():
    node = helper.make_node("Add", ["x", "z"], ["y"], name="add")
    bundle = single(node, {"x": (16, 32), "z": (32,)}, {}, (16, 32))
    (record,) = bundle.manifest.kernels
    assert (record.operations, record.bytes) == (16 * 32, 4 * (2 * 16 * 32 + 32))


def test_records_come_back_from_a_saved_bundle(tmp_path):
    bundle = pf.compile(encoder(seq=8), "host")
    bundle.save(tmp_path / "model.pf")
    assert pf.Bundle.load(tmp_path / "model.pf").manifest.kernels == bundle.manifest.kernels


def test_a_manifest_without_records_is_read():
    manifest = pf.compile(encoder(seq=8), "host").manifest
    data = json.loads(manifest.to_json())
    del data["kernels"]
    assert pf.Manifest.from_json(signed(data)) == replace(manifest, kernels=())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"operators": (99,)}, "operator that is not there"),
        ({"operations": "2 * rows"}, "unknown dimension 'rows'"),
        ({"bytes": "open('x')"}, "no formula"),
    ],
)
def test_records_that_contradict_the_rest_are_refused(change, word):
    manifest = pf.compile(encoder(seq=8), "host").manifest
    with pytest.raises(pf.BadBundle, match=word):
        replace(manifest, kernels=(replace(manifest.kernels[0], **change),))
