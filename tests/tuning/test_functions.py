"""Tuning what no template computes: tasks, trials on a device, records, and what compile does."""

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from rich.console import Console

import pocketformer as pf
from pocketformer.compiler import frontends
from pocketformer.compiler.recipe import Float32
from pocketformer.compiler.report import bundle_card
from pocketformer.compiler.tuning import trace_search
from pocketformer.compiler.tuning.functions import rest_of
from pocketformer.compiler.tuning.points import encode_workload
from pocketformer.compiler.tuning.record import DeviceNote
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.trace_search import TraceSearch
from pocketformer.compiler.tuning.transfer import known_traces
from pocketformer.schedules.cpu.trace import Trace
from pocketformer.schedules.workloads import Function
from tests.numerics.check import assert_close
from tests.schedules.unscheduled import HOST, function

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
image (float[BATCH, 8, 16, 16] x) => (float[BATCH, 8, 8, 8] out, float[BATCH, 8] means) {
    seen = Conv<group = 8, pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(x, weight, bias)
    kept = Relu(seen)
    out = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(kept)
    means = ReduceMean<axes = [2, 3], keepdims = 0>(kept)
}"""
TRIALS = 7


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The path of a model with a depthwise convolution, a pooling and a mean."""
    model, random = parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in (("weight", (8, 1, 3, 3)), ("bias", (8,))):
        values = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    path = tmp_path_factory.mktemp("model") / "image.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def tuning(image, tmp_path_factory):
    records = tmp_path_factory.mktemp("records") / "r.jsonl"
    return pf.tune(image, dims={"BATCH": 1}, trials=TRIALS, records=records)


@pytest.fixture(scope="module")
def untuned(image):
    return pf.compile(image, dims={"BATCH": 1}, records=())


def outputs(bundle):
    given = {"x": np.random.default_rng(1).standard_normal((1, 8, 16, 16)).astype(np.float32)}
    found = pf.Session(bundle).run(given)
    return [found[name] for name in ("out", "means")]


def with_gain(tuning, **other):
    """A record of the tuning as if its point had been twice as fast, with `other` fields."""
    first = next(record for record in tuning.records if not record.error)
    return Records((replace(first, median_us=1.0, default_us=2.0, confirmed=True, **other),))


def tuned(bundle):
    """What the bundle tells of records."""
    return [kernel.tuned for kernel in bundle.manifest.kernels if kernel.tuned]


def test_convolutions_poolings_and_means_are_tasks(tuning):
    kinds = {task.workload.rpartition("_")[0] for task in tuning.tasks}
    assert any("conv2d" in kind for kind in kinds)
    assert any("pool" in kind for kind in kinds)
    assert any("mean" in kind for kind in kinds)
    assert 0.5 < sum(task.share for task in tuning.tasks) <= 1 + 1e-12


def test_sizes_that_are_not_known_leave_nothing_to_search(image):
    assert not rest_of(frontends.load(image), HOST, Float32()).tasks


def test_traces_are_measured_on_the_device(tuning):
    assert tuning.trials == TRIALS
    timed = [record for record in tuning.records if record.median_us]
    assert len(timed) >= TRIALS // 2
    assert all(isinstance(record.workload, Function) for record in timed)
    assert all(isinstance(record.point, Trace) and record.point.steps for record in timed)


def test_compile_takes_a_recorded_trace_and_the_results_stay(image, tuning, untuned):
    bundle = pf.compile(image, dims={"BATCH": 1}, records=with_gain(tuning))
    (said,) = tuned(bundle)
    assert "2.00x the default" in said
    console = Console(file=io.StringIO(), width=160)
    console.print(bundle_card(bundle))
    kernels = {kernel.function for kernel in bundle.manifest.kernels}
    assert f"1 of {len(kernels)} kernels, by records" in console.file.getvalue()
    assert_close(outputs(bundle), outputs(untuned))


def test_a_trace_that_does_not_fit_is_not_followed_and_that_is_said(image, tuning, untuned):
    (other,) = TraceSearch(function("sum_of_all"), HOST, learns=False, seed=0).propose(1)
    bundle = pf.compile(image, dims={"BATCH": 1}, records=with_gain(tuning, point=other))
    assert not tuned(bundle)
    notes = [operator.note for operator in bundle.manifest.operators]
    assert any("not tuned, although there is a record: " in note for note in notes)
    assert_close(outputs(bundle), outputs(untuned))


def test_a_hostile_trace_is_never_replayed(image, tuning, caplog):
    point = Trace('[[["Tensorize",["b0","\\"x\\""],[1],[]]],[]]')
    bundle = pf.compile(image, dims={"BATCH": 1}, records=with_gain(tuning, point=point))
    assert not tuned(bundle)
    assert "of 1 records for other functions are not used: 1 of points" in caplog.text


def test_the_code_of_a_function_is_never_written(tuning):
    workload = next(iter(tuning.records)).workload
    assert set(encode_workload(replace(workload, text="code"))) == {"type", "name", "key"}


def test_a_queued_trace_that_is_told_is_not_proposed():
    workload = function("depthwise_conv")
    points = TraceSearch(workload, HOST, learns=False, seed=0).propose(2)
    search = TraceSearch(workload, HOST, learns=False, seed=1)
    search.queue(points)
    search.told({points[0]: 0.5})
    assert search.propose(1) == points[1:]


def test_queued_traces_are_left_where_no_others_may_come(monkeypatch):
    workload = function("depthwise_conv")
    points = TraceSearch(workload, HOST, learns=False, seed=0).propose(2)
    monkeypatch.setattr(trace_search, "MOST", 1)
    search = TraceSearch(workload, HOST, learns=False, seed=0)
    assert (search.left, search.exhausted) == (0, True)
    search.queue(points)
    assert (search.left, search.exhausted) == (2, False)
    assert search.propose(7) == points
    assert search.exhausted


def test_known_traces_are_of_kin_devices_the_best_first(tuning):
    emulated = DeviceNote("qemu", "znver4", emulated=True)
    (some,) = with_gain(tuning)

    def known(name, **other):
        return replace(some, point=Trace(name), core="znver4", **other)

    records = [
        known("kin", median_us=0.1), known("good"), known("best", median_us=0.5),
        known("slow", median_us=3.0), known("stranger"), known("emulated", device=emulated),
        known("of another", workload=function("sum_of_all")),
    ]
    records[0] = replace(records[0], core="znver5")
    records[4] = replace(records[4], core="cortex-a76")
    traces = known_traces(some.workload, records, "znver4")
    assert [trace.steps for trace in traces] == ["best", "good", "kin"]


def test_a_search_goes_on_from_what_was_measured():
    workload = function("depthwise_conv")
    first = TraceSearch(workload, HOST, learns=True, seed=0)
    points = first.propose(7)
    first.told({point: 1 + place / 10 for place, point in enumerate(points)})
    second = TraceSearch(workload, HOST, learns=True, seed=0)
    second.told({**first.results, Trace("no trace"): 0.1})
    assert second.results == first.results
    assert second.best == (Trace(), 1.0)
    more = second.propose(7)
    assert len(more) == 7
    assert not set(more) & set(points)
