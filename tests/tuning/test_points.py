"""Workloads and points as JSON: all come back, and no other text gets near a kernel."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketformer import targets
from pocketformer.compiler.errors import BadRecords, BadWorkload
from pocketformer.compiler.tuning.points import (
    decode_point,
    decode_workload,
    encode_point,
    encode_workload,
    is_default,
    legal,
    points_of,
    workload_key,
)
from pocketformer.schedules.cpu import template_of
from pocketformer.schedules.cpu.trace import Trace
from pocketformer.schedules.workloads import MOST, Attention, Function, Linear, Norm, Softmax
from tests.tuning.examples import HOST, LAYER, workloads

VARIANTS = [variant for name in targets.available() for variant in targets.load(name).variants]


@given(workloads())
def test_every_workload_comes_back(workload):
    text = json.dumps(encode_workload(workload), allow_nan=False)
    assert decode_workload(json.loads(text), "it") == workload


@settings(deadline=None, max_examples=150)
@given(workloads(), st.sampled_from(VARIANTS), st.data())
def test_a_space_of_any_workload_is_finite_and_its_points_come_back(workload, target, data):
    try:
        points = points_of(workload, target)
    except LookupError:
        return                                   # no template has such a dtype on such a processor
    assert len(points) <= 5000
    point = data.draw(st.sampled_from(points))
    back = decode_point(json.loads(json.dumps(encode_point(point))), "it")
    assert back == point
    assert legal(back, workload, target)


def test_the_default_point_is_the_first():
    assert points_of(LAYER, HOST)[0] == template_of(LAYER).default(HOST, LAYER)


def test_a_functions_default_is_the_untouched_trace():
    function = Function("add", "0" * 64)
    assert is_default(Trace(), function, HOST)
    assert not is_default(Trace("[[], []]"), function, HOST)


def test_a_point_of_another_processor_is_not_legal():
    there = points_of(LAYER, targets.load("pixel8"))
    assert not any(legal(point, LAYER, HOST) for point in there)


def test_a_point_that_no_space_has_is_not_legal():
    point = points_of(LAYER, HOST)[1]
    assert legal(point, LAYER, HOST)
    assert not legal(replace(point, rows=10**9), LAYER, HOST)
    assert not legal(replace(point, isa="no such"), LAYER, HOST)
    assert not legal(point, Softmax(8, 8), HOST)


def test_a_field_that_an_older_version_did_not_write_has_its_default():
    point = points_of(LAYER, HOST)[0]
    old = encode_point(replace(point, unroll=1))
    del old["unroll"]
    assert decode_point(old, "it") == replace(point, unroll=1)
    assert decode_workload({"type": "Linear", "m": 1, "n": 2, "k": 3}, "it") == Linear(1, 2, 3)


def test_speed_depends_on_all_but_scale_and_eps():
    attention = Attention(1, 8, 8, 2, 2, 16, 16, 0.25)
    assert workload_key(attention) == workload_key(replace(attention, scale=0.5))
    assert workload_key(Norm(8, 8, "rms", 1e-5)) == workload_key(Norm(8, 8, "rms", 1e-6))
    assert workload_key(attention) != workload_key(replace(attention, causal=True))


@pytest.mark.parametrize(("value", "why"), [
    (None, "it is no object"),
    ([], "it is no object"),
    ({"m": 1}, "it has no type that is known: Linear, "),
    ({"type": ["Linear"]}, "no type that is known"),
    ({"type": "Linear", "m": 1, "n": 2}, "lacks the field 'k'"),
    ({"type": "Linear", "m": 1, "n": 2, "k": True}, "it.k is true, not a whole number"),
    ({"type": "Linear", "m": 1, "n": 2, "k": 3.0}, "it.k is 3.0, not a whole number"),
    ({"type": "Linear", "m": 1, "n": 2, "k": 3, "o": 4}, "unknown field 'o'"),
    ({"type": "Linear", "m": 1, "n": 2, "k": 0}, "k is 0, not 1 to 2147483647"),
    ({"type": "Linear", "m": -1, "n": 2, "k": 3}, "m is -1"),
    ({"type": "Linear", "m": 1, "n": 2, "k": 3, "activation": "x"}, "activation is 'x'"),
    ({"type": "Norm", "rows": 1, "size": 2, "kind": "x", "eps": 1}, "kind is 'x'"),
    ({"type": "Softmax", "rows": 10**400, "size": 2}, "rows is 1000"),
])
def test_what_is_no_workload_is_refused(value, why):
    with pytest.raises(BadRecords, match=why.replace("(", r"\(")):
        decode_workload(value, "it")


@pytest.mark.parametrize(("make", "why"), [
    (lambda: Linear(1, MOST + 1, 3), "n is 2147483648"),
    (lambda: Linear(1, 2, 3, dtype="int4"), "dtype is 'int4'"),
    (lambda: Attention(1, 8, 8, 3, 2, 16, 16, 0.25), "3 heads cannot share 2"),
    (lambda: Attention(1, 8, 8, 2, 2, 16, 16, float("nan")), "scale is nan"),
    (lambda: Attention(1, 8, 9, 2, 2, 16, 16, 0.25, packed=True), "packed queries"),
    (lambda: Attention(1, 8, 8, 2, 2, 16, 16, 0.25, mask=(True,)), "3 or 4 axes"),
    (lambda: Norm(1, 8, "rms", 1e-5, keep_sum=True), "needs a residual"),
])
def test_what_cannot_be_computed_is_no_workload(make, why):
    with pytest.raises(BadWorkload, match=why):
        make()
