"""What is padding is the same for calibration and for the metric of an accuracy check."""

import numpy as np
import pytest
from onnx import parser

import pocketformer as pf
from pocketformer.compiler.build import read_model
from pocketformer.compiler.errors import BadCalibration, BadMetric
from pocketformer.compiler.progress import silent
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.padding import mask_of
from tests.compiler.test_calibrate import calibrated
from tests.encoder import HIDDEN, encoder, inputs

LENGTH, KEPT = 9, 5
KNOWN = ["attention_mask", "input_mask"]
OTHERS = ["bool_masked_pos", "keep", "mask"]


def named(name):
    """The encoder, whose mask has this name, and two padded batches for it."""
    proto, names = encoder(1, LENGTH), {"keep": name, "mask": "added"}
    for value in proto.graph.input:
        value.name = names.get(value.name, value.name)
    for node in proto.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(each, each) for each in tensors]
    data = [{"ids": inputs(1, LENGTH)["ids"], name: np.ones((1, LENGTH), "int64")} for _ in "ab"]
    for each in data:
        each[name][:, KEPT:] = 0
    return proto, data


@pytest.mark.parametrize("name", KNOWN + OTHERS)
def test_an_input_is_a_mask_by_its_name_and_its_rank(name):
    mask = np.random.default_rng().integers(0, 2, (2, 7))
    found = mask_of({"ids": mask + 3, name: mask})
    assert (found is None) == (name in OTHERS)
    np.testing.assert_array_equal(mask_of({"ids": mask + 3, name: mask}, name), mask == 1)
    assert mask_of({name: mask[None]}) is None
    assert mask_of({name: mask}, "other") is None


@pytest.mark.parametrize("name", ["input_mask", "mask"])
def test_calibration_and_metric_leave_out_the_same_tokens(name):
    proto, data = named(name)
    counted = KEPT if name in KNOWN else LENGTH
    found = calibrated(proto, data)
    assert {each.count for each in found.statistics.values()} == {2 * counted}

    right = np.random.default_rng().normal(size=(1, LENGTH, HIDDEN)).astype("float32")
    wrong = right.copy()
    wrong[:, KEPT:] *= -1
    with Evaluation(pf.Accuracy(data=data), read_model(proto, None)) as evaluation:
        evaluation.answer(lambda _: {"hidden": right}, silent)
        drop = evaluation.measure(lambda _: {"hidden": wrong}, silent).drop
    np.testing.assert_allclose(drop, 2 * (counted - KEPT) / LENGTH, atol=1e-5)


def test_a_batch_that_is_nothing_but_padding_is_refused():
    proto, data = named("attention_mask")
    data[1]["attention_mask"][:] = 0
    sentence = "the input attention_mask is 0 throughout batch 2 of the data"
    with pytest.raises(BadCalibration, match=sentence):
        calibrated(proto, data)
    model = read_model(proto, None)
    with pytest.raises(BadMetric, match=sentence):
        Evaluation(pf.Accuracy(data=data), model)
    with Evaluation(pf.Accuracy(data=data, mask=""), model) as evaluation:
        assert len(evaluation.batches) == 2


def test_a_mask_that_the_model_does_not_have_is_refused():
    proto, data = named("keep")
    model = read_model(proto, None)
    with pytest.raises(BadMetric, match="no input 'kept', did you mean 'keep'; it has ids, keep"):
        Evaluation(pf.Accuracy(data=data, mask="kept"), model)
    with Evaluation(pf.Accuracy(data=data, mask="keep"), model) as evaluation:
        assert len(evaluation.batches) == 2


def test_a_mask_that_has_no_token_axis_is_refused():
    text = '<ir_version: 8, opset_import: ["": 17]> one (float[2, 3, 4] x) => (float[2, 3, 4] y)'
    model = read_model(parser.parse_model(f"{text} {{ y = Relu(x) }}"), None)
    batch = {"x": np.ones((2, 3, 4), "float32")}
    with pytest.raises(BadMetric, match="the mask x has rank 3, it must have 2"):
        Evaluation(pf.Accuracy(data=[batch], mask="x"), model)
