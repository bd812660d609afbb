"""Traces: those that MetaSchedule samples compute the same; others get nowhere."""

import json

import numpy as np
import pytest
import tvm

from pocketformer.compiler.errors import BadRecords
from pocketformer.compiler.tuning.trace_search import TraceSearch
from pocketformer.schedules.cpu.elementwise import NOT_TUNED, TUNED, ScheduleRest, unscheduled
from pocketformer.schedules.cpu.replay import MOST_TEXT, key_of, replayed, trouble
from tests.schedules.running import random
from tests.schedules.unscheduled import CASES, HOST, function, lowered, run


@pytest.fixture(scope="module")
def conv():
    return function("depthwise_conv")


@pytest.fixture(scope="module")
def steps(conv):
    (point,) = TraceSearch(conv, HOST, learns=False, seed=0).propose(1)
    return point.steps


def scheduled(mod, steps):
    """`mod` with the trace `steps` on its one function."""
    (func,) = filter(unscheduled, mod.functions.values())
    return ScheduleRest(HOST, {key_of(func): (steps, "a record")})(mod)


def told(mod, name):
    """What the attribute `name` of the functions of `mod` tells of records."""
    return [str(func.attrs[name]) for func in mod.functions.values() if name in func.attrs]


@pytest.mark.parametrize("case", [
    "depthwise_conv", "wide_conv", "sum_of_all", "sum_of_columns", "matmul_with_bias", "pool",
])
def test_traces_of_metaschedule_change_no_result(case):
    shapes, body = CASES[case]
    plain = lowered(shapes, body, symbolic=False)
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = run(plain, arrays)
    points = TraceSearch(function(case), HOST, learns=False, seed=0).propose(3)
    assert len(points) == 3
    for point in points:
        mod = scheduled(plain, point.steps)
        assert told(mod, TUNED) == ["a record"]
        np.testing.assert_allclose(run(mod, arrays), expected, rtol=2e-5, atol=1e-5)


def test_a_trace_of_another_function_gives_the_default_schedule_and_says_so(steps):
    plain = lowered(*CASES["sum_of_all"], symbolic=False)
    mod = scheduled(plain, steps)
    (said,) = told(mod, NOT_TUNED)
    assert "does not fit" in said
    assert not told(mod, TUNED)
    ours = ScheduleRest(HOST)(plain)
    tvm.ir.assert_structural_equal(without_notes(mod), without_notes(ours))


def without_notes(mod):
    return tvm.IRModule({
        gvar: func.without_attr(NOT_TUNED) if NOT_TUNED in func.attrs else func
        for gvar, func in mod.functions.items()
    })


@pytest.mark.parametrize(("case", "shared"), [("depthwise_conv", False), ("wide_conv", True)])
def test_traces_use_threads_only_where_there_is_work_for_them(case, shared):
    points = TraceSearch(function(case), HOST, learns=False, seed=0).propose(3)
    assert [("Parallel" in point.steps) for point in points] == [shared] * 3


def hostile(steps, change):
    """The trace `steps` after `change` of its instructions and decisions."""
    instructions, decisions = json.loads(steps)
    change(instructions, decisions)
    return json.dumps([instructions, decisions])


def place(instructions, kind):
    return next(i for i, each in enumerate(instructions) if each[0] == kind)


def foreign_code(instructions, _):
    at = place(instructions, "Annotate")
    instructions[at][1][1] = '"define void @f() { ret void }"'
    instructions[at][2] = ["pragma_import_llvm"]


def foreign_primitive(instructions, _):
    instructions.append(["Tensorize", ["b0", '"anything"'], [1], []])


def undecided(_, decisions):
    decisions.pop()


def nested(instructions, _):
    instructions[0][1] = [[[[[["b0"]]]]]]


def huge_tile(instructions, _):
    """Loops over millions of places that the function does not have."""
    at = place(instructions, "Split")
    instructions[at][1][1:] = [1, 1, 1 << 15, 1 << 15]


def unrolled(instructions, _):
    """Code without end."""
    (loop,) = instructions[place(instructions, "Vectorize")][1]
    instructions.append(["Annotate", [loop, 1 << 20], ["pragma_auto_unroll_max_step"], []])


@pytest.mark.parametrize("change", [
    foreign_code, foreign_primitive, undecided, nested, huge_tile, unrolled,
])
def test_a_hostile_trace_is_refused(conv, steps, change):
    func = tvm.ir.load_json(conv.text)
    assert replayed(func, steps) is not None
    with pytest.raises(BadRecords) as error:
        replayed(func, hostile(steps, change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [
    "", "{}", "[]", "[[], 1]", "[[1], []]", '[[["GetSBlock", 1, [], []]], []]', "[" * 9999,
    "[[],[]]" + " " * MOST_TEXT,
])
def test_text_that_is_no_trace_is_refused(text):
    assert trouble(text)


def test_any_change_of_a_trace_is_refused_or_leaves_a_function(conv, steps):
    """The compiler is not to end with whoever reads such a record."""
    func, chosen = tvm.ir.load_json(conv.text), np.random.default_rng(0)
    for _ in range(150):
        def change(instructions, decisions):
            parts = instructions if chosen.random() < 0.7 else decisions
            at, to = chosen.integers(len(parts), size=2)
            match chosen.integers(3):
                case 0:
                    parts[at], parts[to] = parts[to], parts[at]
                case 1:
                    del parts[at]
                case 2:
                    parts[at] = [*parts[at][:1], *parts[to][1:]]
        try:
            replayed(func, hostile(steps, change))
        except BadRecords:
            continue
