"""Which layers cost the answers most: measured in a module that has each of them twice."""

from functools import partial

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pocketformer as pf
from pocketformer.compiler.assemble import Wishes, assemble, fuse
from pocketformer.compiler.build import calibrated_layers, decide_layers, read_model
from pocketformer.compiler.progress import silent
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.judge import Judge
from pocketformer.compiler.quantization.keep_layers import WORST, KeepLayers
from pocketformer.compiler.quantization.metrics import Answers, Sqnr
from pocketformer.compiler.quantization.numbers import CastLayer, Quantization
from pocketformer.compiler.quantization.switches import both, switched
from pocketformer.compiler.tuning.records import Records
from pocketformer.targets import load
from tests.encoder import VOCABULARY, encoder

SEQ, ROWS, N = 16, 8, 32
# `a` is the worst but for `s`, which counts next to nothing.
SIDE = """
<ir_version: 8, opset_import: ["": 17]>
side (float[8, 32] x) => (float[8, 32] y) {
    a = MatMul(x, w0)  b = Relu(a)  c = MatMul(b, w1)
    s = MatMul(x, w2)  t = Mul(s, small)  y = Add(c, t)
}
"""
PAIR = """
<ir_version: 8, opset_import: ["": 17]>
pair (float[8, 32] x) => (float[8, 32] y) { a = MatMul(x, w0)  b = Relu(a)  y = MatMul(b, w1) }
"""


def proto_of(text: str, **arrays: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for node in proto.graph.node:
        node.name = f"{node.output[0]}_{node.op_type}"
    return proto


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng().standard_normal(shape, np.float32)


def noise(expected: np.ndarray, found: np.ndarray) -> float:
    metric = Sqnr()
    expected, found = expected.reshape(1, 1, -1), found.reshape(1, 1, -1)
    metric.update(Answers(expected, found, np.ones((1, 1), bool)))
    return metric.drop()


def sentences(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng()
    return [
        {"ids": rng.integers(0, VOCABULARY, (1, SEQ)), "keep": np.ones((1, SEQ), "int64")}
        for _ in range(count)
    ]


def test_switches_choose_what_each_layer_computes_with():
    recipe, host = pf.Int8(calibration=sentences(8)), load("host")
    fused = fuse(read_model(encoder(1, SEQ), recipe), host)
    numbers = decide_layers(calibrated_layers(fused, recipe), recipe).layers
    keys = list(numbers)
    kept = set(np.random.default_rng().permutation(keys)[: len(keys) // 2])
    make = partial(assemble, target=host, recipe=recipe, wishes=Wishes(Records()))
    twice = switched(fused, keys)
    both_ways = pf.Session(make(twice, quantization=both(numbers, {}, keys)))
    rest = Quantization({key: each for key, each in numbers.items() if key not in kept})
    once = pf.Session(make(fused, quantization=rest))
    [given] = sentences(1)
    name = twice.model.inputs[-1].name
    wanted = {"float32": set(keys), "some": kept, "int8": set()}
    found = {
        what: both_ways.run({**given, name: np.array([key in which for key in keys])})
        for what, which in wanted.items()
    }
    expected = once.run(given)
    for output, array in expected.items():
        exact, some, few = (found[what][output] for what in wanted)
        # What is rounded may fall on the other side of a half: that is no more than a few steps.
        assert noise(array, some) < 0.1 * noise(exact, few)
        assert 0 < noise(exact, few) < 0.1


def test_a_layer_that_suffers_most_but_counts_little_is_not_kept():
    w0, w1, w2 = normal(3, N, N) / N**0.5
    w0[0] *= 100.0      # in the scale of every column, with an input that is small
    w2[0] *= 1000.0
    x = normal(6, ROWS, N)
    x[:, :, 0] /= 1000.0
    proto = proto_of(SIDE, w0=w0, w1=w1, w2=w2, small=np.array(1e-4, np.float32))
    accept = pf.Accuracy(0.001, metric="sqnr", data=[{"x": each} for each in x])
    report = pf.compile(proto, recipe="int8-dynamic", accept=accept).manifest.accuracy
    layers = {layer.name: layer for layer in report.layers}
    assert layers["s_MatMul"].sqnr < layers["a_MatMul"].sqnr < layers["c_MatMul"].sqnr
    assert [layer.name for layer in report.sensitive_first] == ["a_MatMul", "c_MatMul", "s_MatMul"]
    assert report.kept == ("a_MatMul",)
    assert len(report.choices) == 2
    alone = 10 ** (-layers["a_MatMul"].answers / 10)
    assert alone == pytest.approx(report.choices[0].drop, rel=0.1)


def cast(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_layers_that_the_recipe_casts_can_be_kept_in_float32():
    w0, w1 = normal(2, N, N) / N**0.5
    x = normal(6, ROWS, N)

    def pair(first, second) -> np.ndarray:
        return second(np.maximum(first(x) @ first(w0), 0)) @ second(w1)

    def same(array: np.ndarray) -> np.ndarray:
        return array

    exact = pair(same, same)
    one = max(noise(exact, pair(cast, same)), noise(exact, pair(same, cast)))
    whole = noise(exact, pair(cast, cast))
    accept = pf.Accuracy((one * whole) ** 0.5, "sqnr", data=[{"x": each} for each in x])
    steps: list[str] = []
    bundle = pf.compile(
        proto_of(PAIR, w0=w0, w1=w1), recipe="bfloat16", accept=accept,
        progress=lambda step, share: steps.append(step),
    )
    assert steps[-1].startswith("choice 2, 1 of 2 layers kept")    # which is not compiled again
    assert (report := bundle.manifest.accuracy).recipe == bundle.manifest.recipe == "bfloat16"
    assert len(report.kept) == 1
    assert {layer.precision for layer in report.layers} == {"bfloat16", "float32"}
    assert report.choices[0].drop == pytest.approx(whole, rel=0.1)
    found = np.stack([pf.Session(bundle).run({"x": each})["y"] for each in x])
    assert 0 < noise(exact, found) <= accept.max_drop


def test_a_users_function_needs_no_output_of_floating_point():
    text = PAIR.replace("float[8, 32] y", "int64[8, 1] z").replace("}", "z = ArgMax<axis=1>(y) }")
    model = pf.load(proto_of(text, w0=normal(N, N), w1=normal(N, N)))
    accept = pf.Accuracy(0.0, lambda run, batches: 1.0, data=[{"x": normal(ROWS, N)}])
    host = load("host")
    fused = fuse(model, host)
    keys = [layer.key for layer in calibrated_layers(fused, pf.Int8(dynamic=True)).layers]
    with Evaluation(accept, model) as evaluation:
        judge = Judge(fused, pf.Int8(dynamic=True), evaluation, host)
        found = judge.effects(
            dict.fromkeys(keys, CastLayer("bfloat16")), {}, keys, lambda step, share: None
        )
    assert list(found) == keys


def test_the_bundle_is_the_one_that_the_report_chooses():
    """In bfloat16 all that can be kept would have to be; in float32 one layer is as good."""
    w0, w1, x = normal(N, N), normal(N, N), normal(ROWS, N)
    exact = np.maximum(x @ w0, 0) @ w1

    def close(run, batches) -> float:
        return float(max(noise(exact, run(batch)["y"]) for batch in batches) < 1e-3)

    recipe, host = pf.Int4Weights(overrides={"y_MatMul": "bfloat16"}), load("host")
    model = pf.load(proto_of(PAIR, w0=w0, w1=w1))
    fused = fuse(model, host)
    layers = calibrated_layers(fused, recipe)
    with Evaluation(pf.Accuracy(0.0, close, data=[{"x": x}]), model) as evaluation:
        judge = Judge(fused, recipe, evaluation, host)
        judge.answer(silent)
        keep = KeepLayers(recipe, layers, decide_layers(layers, recipe), judge, silent)
        found = keep.decided(("bfloat16", "float32"))
    assert [choice.drop for choice in found.report.choices[:2]] == [1.0, 0.0]
    assert found.report.choices[1].precision == "bfloat16"
    assert (found.report.kept, found.report.choice.precision) == (("a_MatMul",), "float32")
    told = {layer.name: layer.precision for layer in found.report.layers}
    made = {each.name: each.precision for each in found.bundle.manifest.operators}
    assert told == {"a_MatMul": "float32", "y_MatMul": "bfloat16"}
    assert told == {name: made[name] for name in told}


def test_a_layer_that_leaves_no_numbers_is_the_most_sensitive():
    w0, w1, x = np.zeros((N, N), np.float32), normal(N, N), normal(ROWS, N)
    w0[0], w0[1] = 1.0, 2.0**-12 - 1.0     # in bfloat16 that is -1, and the logarithm that of 0
    x[:, :2] = 1.0
    proto = proto_of(PAIR.replace("Relu", "Log"), w0=w0, w1=w1)
    accept = pf.Accuracy(0.001, "sqnr", data=[{"x": x}])
    report = pf.compile(proto, recipe="bfloat16", accept=accept).manifest.accuracy
    worst, other = report.sensitive_first
    assert (worst.name, worst.kept, worst.answers) == ("a_MatMul", True, WORST)
    assert (other.name, other.kept, 30 < other.answers < 70) == ("y_MatMul", False, True)
