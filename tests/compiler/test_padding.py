"""What is padding is the same for calibration and for the metric of an accuracy check."""

import numpy as np
import pytest

import pocketformer as pf
from pocketformer.compiler.build import read_model
from pocketformer.compiler.progress import silent
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.padding import mask_of
from tests.compiler.test_calibrate import calibrated
from tests.encoder import HIDDEN, encoder, inputs

LENGTH, KEPT = 9, 5
KNOWN = ["attention_mask", "input_mask", "mask"]
OTHERS = ["bool_masked_pos", "keep"]


def named(name):
    """The encoder, whose mask has this name, and two padded batches for it."""
    proto = encoder(1, LENGTH)
    for value in proto.graph.input:
        value.name = name if value.name == "keep" else value.name
    for node in proto.graph.node:
        for place, each in enumerate(node.input):
            node.input[place] = name if each == "keep" else each
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


@pytest.mark.parametrize("name", ["input_mask", "bool_masked_pos"])
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
