"""The cost model: what it sees of a point, and what it learns from."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pocketformer import targets
from pocketformer.compiler.errors import MissingPackage
from pocketformer.compiler.tuning.cost_model import CostModel
from pocketformer.compiler.tuning.features import features
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.record import DeviceNote
from pocketformer.schedules.cpu.dot_gemm import DotGemm
from pocketformer.schedules.workloads import Attention, Linear, Norm, QuantizedLinear, Softmax
from tests.tuning.examples import HOST, LAYER, record

WORKLOADS = [
    (LAYER, Linear(None, 312, 384), {"m": 9}),
    (Norm(128, 384, "layer", 1e-5), Norm(None, 384, "layer", 1e-5), {"rows": 128}),
    (Softmax(128, 128), Softmax(None, None), {"rows": 1, "size": 9}),
    (
        Attention(1, 128, 128, 12, 12, 32, 32, 0.2, (True, False, False)),
        Attention(None, None, None, 12, 12, 32, 32, 0.2, None),
        {"batch": 2, "q_len": 64, "kv_len": 64},
    ),
]


@pytest.mark.parametrize(("known", "open_", "sizes"), WORKLOADS, ids=str)
def test_all_points_of_a_template_have_the_same_columns(known, open_, sizes):
    target = targets.load("pixel8")
    points = points_of(known, target)
    rows = [features(point, known, {}) for point in points]
    rows += [features(point, open_, sizes) for point in points_of(open_, target)]
    assert len({len(row) for row in rows}) == 1


def test_points_of_a_space_differ_in_their_features():
    rows = [tuple(features(point, LAYER, {})) for point in points_of(LAYER, HOST)]
    assert len(set(rows)) == len(rows)


def test_a_size_that_is_open_is_seen_as_the_one_it_has():
    point = points_of(LAYER, HOST)[0]
    opened = Linear(None, LAYER.n, LAYER.k, LAYER.bias, LAYER.activation)
    assert features(point, opened, {"m": 128}) == features(point, LAYER, {})


def test_nothing_is_said_before_there_are_results():
    model = CostModel().of(LAYER)
    assert model.opinions(points_of(LAYER, HOST)) is None


def test_points_like_those_that_failed_are_the_last():
    points = points_of(LAYER, HOST)
    bad = {point for point in points if point.panel == points[0].panel}
    model = CostModel().of(LAYER)
    model.told({point: None if point in bad else 1.0 for point in points[::3]})
    for opinion in model.opinions(points):
        scores = dict(zip(points, opinion, strict=True))
        last = sorted(points, key=scores.__getitem__)[:len(bad)]
        assert len(bad & set(last)) > 0.95 * len(bad)


def test_opinions_differ_where_nothing_was_measured_and_agree_where_much_was():
    points = points_of(LAYER, HOST)
    model = CostModel().of(LAYER)
    model.told({point: 1.0 + point.rows / 20 for point in points[:200]})
    spread = np.std(model.opinions(points), axis=0)
    assert spread[200:].mean() > 1.5 * spread[:200].mean() > 0


def test_records_of_this_core_and_its_kin_warm_it_up_those_of_emulators_do_not():
    points = points_of(LAYER, HOST)
    emulated = DeviceNote("qemu", "znver4", emulated=True)

    def warm(core: str, **facts: Any) -> bool:
        records = [record(number, core=core, **facts) for number in range(1, 31)]
        model = CostModel()
        model.learn(records, "znver4")
        return model.of(LAYER).opinions(points) is not None

    assert warm("znver4")
    assert warm("znver5")
    assert not warm("cortex-a76")
    assert not warm("znver4", device=emulated)


def test_a_template_of_two_classes_of_workloads_learns_each_by_itself():
    target = targets.load("pixel8").variants[-1]
    plain = Linear(128, 384, 384, dtype="bfloat16")
    quantized = QuantizedLinear(128, 384, 384, "uint8")
    model = CostModel()
    for workload in (plain, quantized):
        points = points_of(workload, target)[:16]
        assert {type(point) for point in points} == {DotGemm}
        model.of(workload).told(dict.fromkeys(points, 1.0))
        assert {len(each) for each in model.of(workload).opinions(points)} == {len(points)}


def test_other_tasks_tell_less_the_more_own_results_there_are():
    """The other task's fast tiles have many rows, those of this one have few."""
    points, other = points_of(LAYER, HOST), replace(LAYER, n=2 * LAYER.n)

    def wrong(own: int) -> float:
        """How much faster tiles of many rows are said to be than those of few."""
        model = CostModel()
        model.of(other).told({point: 2.0 - point.rows / 16 for point in points[:200]})
        task = model.of(LAYER)
        task.told({point: 1.0 + point.rows / 16 for point in points[:own]})
        scores = np.mean(task.opinions(points), axis=0)
        rows = np.array([point.rows for point in points])
        return float(scores[rows >= 8].mean() - scores[rows <= 4].mean())

    assert wrong(own=1) > 0 > wrong(own=60)


def test_without_xgboost_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingPackage, match=r"pip install .pocketformer\[tune\]"):
        CostModel()
