"""Accuracy control on this machine: layers that cost too much are kept, or the model is refused."""

import json
import math
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import numpy_helper
from typer.testing import CliRunner

import pocketformer as pf
from pocketformer.compiler.arrays import Arrays, write_arrays
from pocketformer.compiler.cli import app
from pocketformer.compiler.decode import decode
from pocketformer.compiler.progress import silent
from pocketformer.compiler.quantization.evaluation import Evaluation
from pocketformer.compiler.quantization.result import AccuracyReport
from tests.compiler.tiny import one_sentence

ROWS, N = 8, 32
CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
chain (float[8, 32] x) => (float[8, 32] y, int64[8] best) {
    a = MatMul(x, w0)  b = Relu(a)  y = MatMul(b, w1)
    best = ArgMax<axis = 1, keepdims = 0>(y)
}
"""


def chain() -> onnx.ModelProto:
    """Two linear layers; for the weights of the first 8 bits are too few."""
    proto = onnx.parser.parse_model(CHAIN)
    weights = np.random.default_rng().standard_normal((2, N, N), np.float32) / N**0.5
    weights[0, 0] *= 1000.0     # with an input that is as small, but in every column's scale
    for name, weight in zip(("w0", "w1"), weights, strict=True):
        proto.graph.initializer.append(numpy_helper.from_array(weight, name))
    for node in proto.graph.node:
        node.name = f"{node.output[0]}_{node.op_type}"
    return proto


def batches(count: int = 6, rows: int = ROWS) -> list[Arrays]:
    x = np.random.default_rng().standard_normal((count, rows, N), np.float32)
    x[:, :, 0] /= 1000.0
    return [{"x": each} for each in x]


# The check itself


def evaluation(model: pf.Model, **fields: object) -> Evaluation:
    given = {"data": batches(), **fields}
    return Evaluation(pf.Accuracy(**given), model)


@pytest.fixture(scope="module")
def model() -> pf.Model:
    return pf.load(chain())


def double(batch: Arrays) -> Arrays:
    return {"y": 2 * batch["x"], "best": batch["x"].argmax(1)}


def worse(batch: Arrays) -> Arrays:
    noise = np.random.default_rng(0).standard_normal(batch["x"].shape, np.float32)
    return {"y": 2 * batch["x"] + noise / 10}


def measured(model: pf.Model, run=worse, **fields: object):
    with evaluation(model, **fields) as each:
        each.answer(double, silent)
        return each.baseline, each.measure(run, silent)


def test_answers_are_compared_batch_by_batch(model):
    baseline, found = measured(model, metric="sqnr")
    assert math.isinf(baseline)
    assert 10 < found.value < 40
    assert found.drop == pytest.approx(10 ** (-found.value / 10))
    assert measured(model, run=double)[1].drop == pytest.approx(0, abs=1e-6)


def test_batches_of_an_iterator_are_there_for_every_measurement(model):
    with evaluation(model, data=iter(batches())) as each:
        each.answer(double, silent)
        assert each.measure(double, silent).drop == each.measure(double, silent).drop
        folder = each._folder
        assert len(list(each.batches)) == 6
    assert not folder.exists()


def test_a_users_function_runs_the_model_on_all_batches(model):
    def sum_of_squares(run, batches: Iterable[Arrays]) -> float:
        return -sum(float(np.square(run(batch)["y"] - 2 * batch["x"]).sum()) for batch in batches)

    baseline, found = measured(model, metric=sum_of_squares)
    assert baseline == 0
    assert found.drop == -found.value > 1


def test_labels_are_of_items_in_order(model):
    data = batches(60)      # of 480 labels one in 17 changes
    labels = np.concatenate([batch["x"].argmax(1) for batch in data])
    baseline, found = measured(model, data=data, labels=labels, metric="top1")
    assert baseline == 1.0
    assert 0.3 < found.value < 1.0


@pytest.mark.parametrize(
    ("name", "words"), [("a.npy", "cannot read"), ("a.npz", "no single array")]
)
def test_labels_of_a_file_are_one_array(model, tmp_path, name, words):
    (tmp_path / "a.npy").touch()
    write_arrays(tmp_path / "a.npz", {"labels": np.zeros(3, int)})
    with pytest.raises(pf.BadMetric) as error:
        evaluation(model, labels=tmp_path / name, metric="top1")
    assert words in one_sentence(error)


def raising(run, batches) -> float:
    raise KeyError("nothing here")


def raising_lines(run, batches) -> float:
    raise ValueError("first\nsecond")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metric": raising}, "the metric raising raised KeyError: 'nothing here'"),
        ({"metric": raising_lines}, "raising_lines raised ValueError: first"),
        ({"metric": lambda run, batches: math.nan}, "returned nan"),
        ({"metric": lambda run, batches: None}, "returned NoneType, not a number"),
        ({"metric": "cosines"}, "no metric 'cosines'; one of cosine"),
        ({"metric": 3}, "not a function"),
        ({"max_drop": -0.1}, "max_drop is -0.1"),
        ({"max_drop": math.nan}, "max_drop is nan"),
        ({"data": None}, "needs data"),
        ({"trials": 0}, "trials is 0"),
        ({"output": "z"}, "no output 'z'; it has y, best"),
        ({"output": "best"}, "best is not of floating point"),
        ({"labels": [1, 2]}, "labels are for the metrics top1 and top5"),
        ({"labels": [1, 2], "metric": "top1"}, "8 rows from item 0 on, and 2 labels"),
        ({"labels": [0.5], "metric": "top1"}, "not integers"),
        ({"data": [{"z": np.zeros((1, N), np.float32)}]}, "no input 'z'"),
        ({"data": []}, "no batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_measured_is_told_in_a_sentence(model, fields, words):
    with pytest.raises(pf.PocketformerError) as error:
        measured(model, **fields)
    assert words in one_sentence(error)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": np.zeros(49, int), "metric": "top1"}, "49 labels for 48 items"),
        ({"labels": np.full(48, N), "metric": "top1"}, "labels are from 0 to 31"),
        ({"metric": "spearman", "data": batches(2, 1)}, "three items or more"),
    ],
    ids=["count", "range", "spearman"],
)
def test_labels_and_items_that_do_not_fit_are_told_before_anything_runs(fields, words):
    proto = chain()
    if fields["metric"] == "spearman":
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "rows"
    taken = pf.load(proto)
    with pytest.raises(pf.BadMetric) as error:
        evaluation(taken, **fields)
    assert words in one_sentence(error)


def test_spearman_needs_items_that_differ(model):
    with pytest.raises(pf.BadMetric) as error, evaluation(model, metric="spearman") as each:
        each.answer(lambda batch: {"y": np.ones((ROWS, N), np.float32)}, silent)
    assert "three items or more that differ" in one_sentence(error)


def test_float32_that_is_not_finite_cannot_be_compared_with(model):
    with pytest.raises(pf.BadMetric) as error, evaluation(model) as each:
        each.answer(lambda batch: {"y": batch["x"] + np.inf}, silent)
    assert "not finite" in one_sentence(error)


def test_answers_that_are_not_finite_are_lost(model):
    _, found = measured(model, run=lambda batch: {"y": batch["x"] * np.nan})
    assert math.isinf(found.drop)


# compile(accept=...)


def command(folder: Path, *options: str) -> Result:
    """Compiles the chain to chain.pf; the data is in x.npz, and a page is asked for."""
    onnx.save(chain(), folder / "chain.onnx")
    write_arrays(folder / "x.npz", {"x": np.concatenate([each["x"] for each in batches()])})
    return CliRunner().invoke(app, [
        "compile", str(folder / "chain.onnx"), "--output", str(folder / "chain.pf"),
        "--evaluate", str(folder / "x.npz"), "--html", str(folder / "page.html"), *options,
    ])


def test_the_layer_that_costs_too_much_is_kept_and_no_other(tmp_path):
    made = command(
        tmp_path, "--recipe", "int8-dynamic", "--metric", "sqnr", "--accept", "0.001", "--json"
    )
    assert made.exit_code == 0, made.stderr
    bundle = pf.Bundle.load(tmp_path / "chain.pf")
    report = bundle.manifest.accuracy
    assert decode(AccuracyReport, json.loads(made.stdout)["accuracy"], "") == report
    first, second = report.sensitive_first
    assert (first.name, first.kept, first.sqnr < 30 < second.sqnr) == ("a_MatMul", True, True)
    assert (second.name, second.kept, second.precision) == ("y_MatMul", False, "int8 (by token)")
    assert first.precision == report.choice.precision in ("bfloat16", "float32")
    nothing, chosen = report.choices[0], report.choice
    assert chosen.drop <= 0.001 < nothing.drop
    assert nothing.bytes < chosen.bytes < report.float32_bytes
    assert min(nothing.ms, chosen.ms, report.float32_ms) > 0
    assert (report.metric, report.max_drop, report.batches) == ("sqnr", 0.001, 6)
    assert (tmp_path / "page.html").read_text().count("<svg") == 2
    seen = CliRunner().invoke(app, ["inspect", str(tmp_path / "chain.pf")])
    assert "1 of 2 layers" in seen.stdout


def test_the_model_answers_as_the_report_says():
    accept = pf.Accuracy(math.inf, metric="sqnr", data=batches())
    seen: list[float] = []
    bundle = pf.compile(
        chain(), recipe="bfloat16", accept=accept, progress=lambda step, share: seen.append(share)
    )
    assert seen == sorted(seen)
    found = bundle.manifest.accuracy.choice
    assert 35 < found.value < 60
    assert found.drop == pytest.approx(10 ** (-found.value / 10))
    assert {layer.precision for layer in bundle.manifest.accuracy.layers} == {"bfloat16"}


def test_answers_that_cannot_be_held_are_refused_with_what_was_measured(tmp_path):
    made = command(tmp_path, "--recipe", "bfloat16", "--accept", "1e-12", "--json")
    assert made.exit_code == 2
    told = json.loads(made.stdout)
    assert told["error"].startswith("the recipe bfloat16 costs")
    assert decode(AccuracyReport, told["accuracy"], "").choice is None
    assert "the recipe bfloat16 costs" in made.stderr
    assert "more than the 1e-12" in made.stderr
    assert "float32" in made.stderr.splitlines()[-2]
    assert "Traceback" not in made.stderr
    assert not (tmp_path / "chain.pf").exists()
    assert (tmp_path / "page.html").read_text().count("<svg") == 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="this machine may have fp16")
def test_answers_in_float16_are_not_measured_where_it_cannot_run():
    with pytest.raises(pf.BadMetric) as error:
        pf.compile(chain(), "pixel8", recipe="float16", accept=pf.Accuracy(data=batches()))
    assert "measured on this machine, but the recipe float16" in one_sentence(error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--accept", "0.01"], "--accept needs --evaluate"),
        (["--html", "page.html"], "--html needs --evaluate"),
        (["--trials", "3"], "--trials needs --evaluate"),
        (["--evaluate", __file__, "--trials", "0"], "trials is 0"),
        (["-r", "int8", "--calibrate", __file__, "--evaluate", str(Path(__file__).parent)],
         "--evaluate has data of --calibrate"),
        (["--evaluate", "/nowhere.npz"], "no file or folder /nowhere.npz"),
        (["--evaluate", __file__, "--accept", "-1"], "max_drop is -1"),
        (["--evaluate", __file__, "--metric", "mse"], "no metric 'mse'"),
        (["--evaluate", __file__], "is neither an .npz file"),
        (["--evaluate", __file__, "--html", "/proc/page.html"], "page.html cannot be written"),
        (["-o", "/proc/out.pf"], "/proc/out.pf cannot be written"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_before_the_work(options, words, tmp_path):
    onnx.save(chain(), tmp_path / "chain.onnx")
    made = CliRunner().invoke(app, ["compile", str(tmp_path / "chain.onnx"), *options])
    assert not (tmp_path / "chain.pf").exists()
    assert made.exit_code == 2
    assert words in made.stderr
