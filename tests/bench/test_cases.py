"""Cases of the bench: tables of what was found, what counts as finished, what a peer refuses."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bench import cases, peak, plots
from bench.baselines import pocketformer
from bench.baselines.peer import (
    ConverterEnded,
    Peer,
    Refuses,
    converted,
    forget_refusals,
    run_converter,
)
from bench.cases import FULL, QUICK, Case, prepare
from bench.flops import operations
from bench.models import read_models
from bench.report import share_limits
from bench.run import PEERS, cases_of
from bench.table import model_page, ratio, share, summary
from pocketformer import targets
from pocketformer.compiler.errors import MissingPackage

ROOT = Path(__file__).parents[2]
TINY = Case("tinybert-4", {"batch": 1, "seq": 16}, 1)


def engine(name, precision="float32", ms=None, refused=None):
    peer = PEERS.get(name)
    found = {"name": name, "label": peer.label if peer else name, "precision": precision,
             "versions": peer.versions() if peer else {name: "1"}}
    if refused:
        return {**found, "refused": refused}
    return {**found, "error": 1e-6, "calls": 10, "min_ms": ms, "median_ms": 1.1 * ms,
            "load_ms": 5.0, "run_bytes": 10_000_000}


@pytest.fixture
def record():
    machine = {"processor": "a processor", "family": "1", "model": "2", "cores": 2, "isa": ["fma"],
               "memory_gib": 8.0, "system": "Linux", "python": "3.11", "versions": {"numpy": "2"},
               "measured": "2026-01-01T00:00:00+00:00"}
    return {
        "model": "tinybert-4", "sizes": {"batch": 1, "seq": 16}, "threads": 1, "effort": "full",
        "operations": 2_000_000_000, "seconds": 1.0, "machine": machine,
        "peaks": {"float32": 100.0, "bfloat16": None, "int8": None},
        "engines": [
            engine("pocketformer", ms=25.0),
            engine("onnxruntime", ms=40.0),
            engine("mnn", ms=50.0),
            engine("iree", refused="its converter: no such operator"),
            engine("openvino-bf16", "bfloat16", ms=10.0),
        ],
    }


def test_ratio_is_to_the_fastest_peer_of_the_same_precision(record):
    assert ratio(record) == (25.0 / 40.0, "onnxruntime")
    assert ratio(record, "bfloat16") is None    # ours was not timed in it


def test_refused_case_of_ours_has_no_ratio(record):
    record["engines"][0] = engine("pocketformer", refused="unsupported")
    assert ratio(record) is None
    assert "| refuses |" in model_page([record])


def test_share_is_that_of_the_limit_of_the_precision(record):
    assert share(record, record["engines"][0]) == pytest.approx(2.0 / 100.0 / 25e-3)
    assert share(record, record["engines"][4]) is None    # no limit is known


def test_limit_is_the_highest_that_was_measured_for_as_many_threads(record):
    busy, other = copy.deepcopy(record), copy.deepcopy(record)
    busy["peaks"]["float32"], other["threads"] = 30.0, 2
    other["peaks"]["float32"] = 200.0
    records = [busy, record, other]
    share_limits(records)
    assert [each["peaks"]["float32"] for each in records] == [100.0, 100.0, 200.0]
    assert busy["peaks"]["int8"] is None


def test_page_tells_times_and_reasons(record):
    page = model_page([record])
    assert "| 1 | 16 | 1 | 25.00 (27.50) | 40.00 (44.00) | 50.00 (55.00) | refuses |" in page
    assert "- IREE (1 x 16): its converter: no such operator" in page
    assert "float32 100, bfloat16 none" in page


def test_summary_has_the_geometric_mean_of_the_ratios(record):
    other = copy.deepcopy(record)
    other["sizes"]["seq"] = 64
    other["engines"][0]["min_ms"] = 100.0
    text = summary([record, other])
    assert "| tinybert-4 | 1 | 64 | 2.500 | onnxruntime |" in text
    assert "| geometric mean | | | 1.250 |" in text


def test_quick_run_is_called_so(record):
    record["effort"] = QUICK.name
    assert "no figures to rely on" in summary([record])


def test_plots_are_pictures(record, tmp_path):
    for plot in (plots.plot_ratios, plots.plot_shares):
        plot([record], tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


@pytest.fixture
def finished(record, tmp_path, monkeypatch):
    """Whether a record of the case TINY counts as finished."""
    monkeypatch.setattr(cases, "CASES", tmp_path)

    def ask(engines=("pocketformer", "onnxruntime"), effort=FULL, any_version=False):
        cases.keep(TINY.path, record)
        return TINY.finished([PEERS[name] for name in engines], effort, any_version)

    return ask


def test_case_is_finished_if_all_its_engines_were_measured(finished):
    assert finished()
    assert not finished(engines=("pocketformer", "ncnn"))


def test_case_of_another_version_is_not_finished_unless_asked_for(finished, record):
    record["engines"][1]["versions"] = {"onnxruntime": "0.1"}
    assert not finished()
    assert finished(any_version=True)


def test_quick_case_does_not_stand_for_a_full_one(finished, record):
    record["effort"] = QUICK.name
    assert finished(effort=QUICK)
    assert not finished(effort=FULL)


def test_sizes_vary_only_where_a_model_has_them():
    models = read_models()
    found = [*cases_of([models["tinybert-4"], models["vit-b16"]], [1, 8], [16, 64], [1, 2])]
    assert len(found) == 2 * 2 * 2 + 2 * 2
    assert next(case.sizes for case in found if case.model == "vit-b16") == {"batch": 1}


def test_operations_are_those_of_all_products(tmp_path):
    nodes = [
        helper.make_node("Conv", ["image", "filter"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "matrix"], ["m"]),
        helper.make_node("Gemm", ["m", "weight"], ["y"], transA=1, transB=1),
    ]
    weights = {"filter": (4, 3, 2, 2), "matrix": (4 * 7 * 7, 5), "weight": (6, 2)}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, (2, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (5, 6))],
        [onnx.numpy_helper.from_array(np.zeros(shape, "float32"), name)
         for name, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    conv, matmul, gemm = 2 * 4 * 7 * 7 * 3 * 2 * 2, 2 * 4 * 7 * 7 * 5, 5 * 6 * 2
    assert operations(tmp_path / "m.onnx") == 2 * (conv + matmul + gemm)


def test_limit_is_measured_and_unknown_without_instructions_for_it():
    level = targets.load("host")
    assert 1.0 < peak.gflops("float32", 1, level) < 10_000
    if level.arch == "x86_64" and "avx512bf16" not in level.isa:
        assert peak.gflops("bfloat16", 1, level) is None


def convert(model, sizes, output):
    """A converter's, for the tests below: it takes one size, and 32 to 34 go wrong around it."""
    if sizes["seq"] != 16:
        (model.work / "asked").write_text((model.work / "asked").read_text() + "x")
    if sizes["seq"] == 32:
        raise MissingPackage("the package x is missing")
    if sizes["seq"] == 33:
        raise OSError("no such tool")
    if sizes["seq"] == 34:
        raise Refuses("error: No space left on device")
    if sizes["seq"] != 16:
        raise Refuses("only 16 tokens")
    output.write_text("converted")


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """`Peer.file` of the converter above, for a model with a folder of its own."""
    monkeypatch.setenv("POCKETFORMER_BENCH", str(tmp_path))
    monkeypatch.setattr("bench.models.WORK", tmp_path)
    model = read_models()["tinybert-4"]
    (model.work / "asked").touch()
    return model, converted(__name__, ".file", ())


def test_converted_file_is_kept(converter):
    model, file = converter
    place = file(model, {"batch": 1, "seq": 16})
    assert place.read_text() == "converted"
    place.write_text("kept")
    assert file(model, {"batch": 1, "seq": 16}).read_text() == "kept"


def test_refusal_is_told_and_remembered(converter):
    model, file = converter
    for _ in range(2):
        with pytest.raises(Refuses, match="its converter: only 16 tokens"):
            file(model, {"batch": 1, "seq": 8})
    assert (model.work / "asked").read_text() == "x"


def test_refusal_is_asked_anew_once_forgotten(converter):
    model, file = converter
    sizes = {"batch": 1, "seq": 8}
    for _ in range(2):
        with pytest.raises(Refuses):
            file(model, sizes)
        forget_refusals(model, sizes)
    assert not [*model.work.glob("*.refusal")]
    assert (model.work / "asked").read_text() == "xx"


@pytest.mark.parametrize(("seq", "cause"), [
    (32, "the package x is missing"), (33, "no such tool"), (34, "No space left"),
])
def test_what_goes_wrong_around_a_converter_is_not_remembered(converter, seq, cause):
    model, file = converter
    for _ in range(2):
        with pytest.raises(Refuses, match=cause):
            file(model, {"batch": 1, "seq": seq})
    assert (model.work / "asked").read_text() == "xx"


def test_preparing_converts_and_tells_who_refused(converter):
    model, file = converter
    peers = [Peer("takes", "Takes", "x:X", (), file),
             Peer("lacks", "Lacks", "x:X", ("no-such-package",), file)]
    case = Case(model.name, {"batch": 1, "seq": 16}, 1)
    assert prepare(case, model, [*peers, *pocketformer.PEERS], lambda *_: None) == ["Lacks"]
    (made,) = model.sized(case.sizes).iterdir()     # nothing of ours: its compiling is timed
    assert made.read_text() == "converted"
    refused = Case(model.name, {"batch": 1, "seq": 8}, 1)
    assert prepare(refused, model, peers, lambda *_: None) == ["Takes", "Lacks"]


def test_timeout_is_not_remembered(converter, monkeypatch):
    model, file = converter
    monkeypatch.setattr("bench.baselines.peer.LIMIT", 0)
    with pytest.raises(Refuses, match="takes more than 0 minutes"):
        file(model, {"batch": 1, "seq": 16})
    assert not [*model.work.glob("*.refusal")]


def test_killed_program_is_no_refusal():
    with pytest.raises(ConverterEnded, match="sh was ended by signal 9"):
        run_converter(["sh", "-c", "kill -9 $$"])


def test_missing_package_is_named():
    with pytest.raises(Refuses, match="the package no-such-package is not installed"):
        Peer("x", "x", "x:X", ("no-such-package",), lambda model, sizes: Path()).check()


def test_version_of_ours_changes_with_its_sources():
    assert pocketformer.PEERS[0].versions()["pocketformer"].endswith(pocketformer.sources())
    assert len(pocketformer.sources()) == 8


def run(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "bench.run", *arguments], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "POCKETFORMER_BENCH": str(folder)}, check=False,
    )


def test_a_run_is_told_in_a_table_and_not_repeated(tmp_path):
    arguments = ("tinybert-4", "--batches", "1", "--lengths", "16", "--threads", "1", "--quick",
                 "--engines", "pocketformer", "onnxruntime")
    first = run(*arguments, folder=tmp_path)
    # Somebody may be editing the sources while this runs.
    second = run(*arguments, "--any-version", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "| tinybert-4 | 1 | 16 |" in first.stdout
    assert "1 cases, 1 of them finished before" in second.stderr
    (found,) = json.loads((tmp_path / "results" / "tinybert-4.json").read_text())
    assert found["engines"][0]["error"] < 1e-5
    assert not [*(tmp_path / "tinybert-4").glob("batch*")]    # what is for one size is not kept


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no-model"], "no model 'no-model'; there are minilm-l6"),
        (["--lengths", "513"], "lengths end at 512"),
        (["--threads", "0"], "begin at 1"),
        (["--engines", "caffe"], "caffe"),
    ],
)
def test_mistake_is_one_sentence(arguments, sentence, tmp_path):
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
