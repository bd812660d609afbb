"""What calibration sees of a model: its layers, and the tensors that they read."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import pocketformer as pf
from pocketformer import targets
from pocketformer.compiler.assemble import fuse
from pocketformer.compiler.build import read_model
from pocketformer.compiler.progress import silent
from pocketformer.compiler.quantization.calibrate import calibrate
from pocketformer.compiler.quantization.histogram import Histogram
from pocketformer.compiler.quantization.overrides import recipes_of
from pocketformer.compiler.quantization.statistics import RESERVOIR, TensorStatistics
from pocketformer.compiler.recipe import Float32, Int4Weights, Int8
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.prepare import Source
from tests.compiler.tiny import one_sentence
from tests.encoder import HEADS, HIDDEN, VOCABULARY, WIDE, encoder, inputs
from tests.numerics.tolerance import TOLERANCE

HOST = targets.load("host")


def near(found, wanted):
    limit = TOLERANCE["float32"] * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("sizes", [(40, 3), (7, 700, 1, 300)], ids=str)
def test_statistics_of_batches_are_those_of_all_rows(sizes):
    batches = [np.random.default_rng().normal(2, 3, (n, 6)).astype("float32") for n in sizes]
    found = TensorStatistics(6, block=4)
    for batch in batches:
        found.update(batch)
    rows = np.concatenate(batches)
    assert (found.count, found.batches, found.finite) == (len(rows), len(batches), True)
    near(found.low, rows.min(axis=0))
    near(found.high, rows.max(axis=0))
    near(found.most, np.abs(rows).max(axis=0))
    near(found.mean, rows.mean(axis=0))
    assert found.blocks == [slice(0, 4), slice(4, 6)]
    for block, second, covariance in zip(
        found.blocks, found.moments(False), found.moments(True), strict=True
    ):
        near(second, rows[:, block].T @ rows[:, block] / len(rows))
        near(covariance, np.cov(rows[:, block].T, bias=True))
    whole = Histogram()
    whole.update(rows)
    for part, wanted in zip(found.histogram.bins, whole.bins, strict=True):
        np.testing.assert_array_equal(part, wanted)
    assert found.histogram.bins[2].sum() == rows.size
    assert len(found.rows) == min(len(rows), RESERVOIR)
    assert {tuple(row) for row in found.rows.tolist()} <= {tuple(row) for row in rows.tolist()}


def test_the_sample_holds_rows_of_every_part_alike():
    found = TensorStatistics(1)
    for start in range(0, 8000, 80):
        found.update(np.arange(start, start + 80, dtype="float32")[:, None])
    counts = np.histogram(found.rows, 4, (0, 8000))[0]
    assert counts.sum() == RESERVOIR
    assert all(RESERVOIR / 4 * 0.6 < count < RESERVOIR / 4 * 1.4 for count in counts)


def test_a_batch_that_is_not_finite_is_told_and_left_out():
    found = TensorStatistics(2)
    found.update(np.ones((3, 2), "float32"))
    found.update(np.array([[1, np.nan]], "float32"))
    assert not found.finite
    assert found.count == 3
    assert np.isfinite(found.high).all()


def calibrated(proto, data, dims=None, recipe=None):
    recipe = recipe or Int8(calibration=data)
    model = read_model(proto, recipe, dims)
    return calibrate(fuse(model, HOST).module, model, recipe, silent)


def masked(seq="seq"):
    """The encoder, whose mask has the name that says so."""
    proto = encoder(1, seq)
    for value in proto.graph.input:
        value.name = value.name.replace("keep", "attention_mask")
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name == "keep":
                node.input[place] = "attention_mask"
    return proto


def sentences(*lengths):
    found = [inputs(1, n) for n in lengths]
    return [{"ids": each["ids"], "attention_mask": each["keep"]} for each in found]


def first_norm(proto, ids):
    """What the encoder's first linear layers read: layer_norm(table[ids])."""
    arrays = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    rows = arrays["table"][np.concatenate([each.reshape(-1) for each in ids])].astype("float64")
    rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
    return rows * arrays["gamma"] + arrays["beta"]


def test_layers_and_what_they_read_are_found():
    found = calibrated(encoder(), [inputs(1, 5), inputs(1, 9)])
    kinds = [layer.kind for layer in found.layers]
    assert kinds == ["lookup", "linear", "attention", "linear", "linear", "linear"]
    table, qkv, mixed, out, wide, narrow = found.layers
    assert table.weight.shape == (VOCABULARY, HIDDEN)
    shapes = [layer.weight.shape for layer in (qkv, out, wide, narrow)]
    assert shapes == [(HIDDEN, 3 * HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, WIDE), (WIDE, HIDDEN)]
    assert qkv.names[0] == "query_product_MatMul"
    assert {"bq", "wq", "wk"} <= set(qkv.names)
    assert wide.activation == "gelu"
    assert all(layer.smoothable for layer in (qkv, out, wide, narrow))
    assert {layer.x for layer in (qkv, out, wide, narrow)} | set(mixed.reads) == set(
        found.statistics
    )
    assert all(found.statistics[key].rows.shape == (14, HIDDEN) for key in mixed.reads)
    assert HEADS * 8 == HIDDEN


@pytest.mark.parametrize("dims", [{"seq": 9}, {"seq": "9,16"}], ids=str)
def test_statistics_are_what_the_layers_read_at_the_lengths_of_the_data(dims):
    proto, data = encoder(), [inputs(1, n) for n in (4, 7, 11)]
    found = calibrated(proto, data, dims)
    x = found.statistics[found.layers[1].x]
    rows = first_norm(proto, [each["ids"] for each in data])
    assert (x.count, x.batches) == (len(rows), 3)
    near(x.low, rows.min(axis=0))
    near(x.high, rows.max(axis=0))
    near(x.mean, rows.mean(axis=0))


def test_padding_counts_for_nothing():
    proto, data = masked(9), sentences(9, 9)
    for each in data:
        each["attention_mask"][:, 5:] = 0
    found = calibrated(proto, data)
    x = found.statistics[found.layers[1].x]
    rows = first_norm(proto, [each["ids"][:, :5] for each in data])
    assert x.count == len(rows)
    near(x.mean, rows.mean(axis=0))
    assert all(each.count == 10 for each in found.statistics.values())


def test_a_single_batch_is_warned_of_and_a_recipe_without_data_runs_nothing(caplog):
    calibrated(encoder(), [inputs(1, 5)])
    assert "calibration has a single batch" in caplog.text
    assert not calibrated(encoder(), None, recipe=Int4Weights()).statistics


@pytest.mark.parametrize("wrong", [VOCABULARY, 3 * VOCABULARY, -VOCABULARY - 1])
def test_ids_outside_of_the_table_are_refused(wrong, monkeypatch):
    good, bad = inputs(1, 5), inputs(1, 5)
    bad["ids"][0, 2] = wrong
    monkeypatch.setattr("pocketformer.compiler.quantization.calibrate.assemble", None)
    with pytest.raises(pf.BadInput) as error:
        calibrated(encoder(), [bad, good])
    assert one_sentence(error) == (
        f"batch 1 of the data: ids has {wrong}, but the table of embedded_Gather has "
        f"{VOCABULARY} rows")


def test_the_session_of_a_calibration_is_closed(monkeypatch):
    closed, close = [], Session.close
    monkeypatch.setattr(Session, "close", lambda self: (close(self), closed.append(self)))
    assert calibrated(encoder(), [inputs(1, 5)]).statistics
    with pytest.raises(pf.BadInput, match="the session is closed"):
        closed[0].run(inputs(1, 5))


def test_a_model_without_layers_is_warned_of_and_runs_nothing(caplog):
    def batches():
        raise AssertionError("nobody needs a batch")
        yield

    node = helper.make_node("Exp", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    proto = helper.make_model(helper.make_graph([node], "exp", [x], [y]))
    found = calibrated(proto, batches())
    assert found.layers == ()
    assert "the recipe int8 finds no layer to quantise" in caplog.text


def test_data_that_does_not_fit_is_told_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr("pocketformer.compiler.quantization.calibrate.assemble", None)
    with pytest.raises(pf.BadInput) as error:
        calibrated(encoder(), [{"ids": np.ones((1, 3), "int64")}])
    assert one_sentence(error).startswith("batch 1 of the data: the input 'keep' is missing")


def test_an_override_that_matches_no_layer_lists_near_names():
    with pytest.raises(pf.BadRecipe) as error:
        calibrated(encoder(), None, recipe=Int4Weights(overrides={"*quary_product*": "int8"}))
    text = one_sentence(error)
    assert text.startswith("the override '*quary_product*' matches no layer; near names are")
    assert "query_product_MatMul" in text


def test_the_first_override_that_matches_counts():
    overrides = {"wide*": "bfloat16", "*_MatMul": Float32()}
    found = calibrated(encoder(), None, recipe=Int4Weights(overrides=overrides))
    of = recipes_of(found.layers, Int4Weights(overrides=overrides))
    names = {layer.name: of(layer).name for layer in found.layers}
    assert names["wide_product_MatMul"] == "bfloat16"
    assert names["narrow_MatMul"] == "float32"
    assert names["embedded_Gather"] == "int4"


def test_tuning_calibrates_once():
    data = iter([inputs(1, 5), inputs(1, 9)])
    source = Source.load(encoder(), HOST, Int8(calibration=data), {"seq": 8})
    assert len(source.quantization.layers) == 6
    assert next(data, None) is None




@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (lambda data: Int8(), "the recipe int8 needs calibration data"),
        (lambda data: Int4Weights(overrides={"w*": "int8"}),
         "the override 'w*' is int8, which needs calibration data"),
        (lambda data: Int4Weights(overrides={"w*": Int8(calibration=data)}),
         "override 'w*' has calibration data of its own"),
        (lambda data: Int8(calibration=data, overrides={"w*": "float16"}),
         "the recipe float16 needs a 64-bit Arm processor"),
    ],
    ids=["static", "override", "own data", "target"],
)
def test_a_recipe_that_cannot_be_is_told_before_the_model_is_read(recipe, words):
    with pytest.raises(pf.BadRecipe) as error:
        pf.compile("nowhere.onnx", "host", recipe=recipe([inputs(1, 5)]))
    assert one_sentence(error).startswith(words)
