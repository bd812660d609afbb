"""Traces: those that MetaSchedule samples compute the same; others get nowhere."""

import json
from contextlib import suppress

import numpy as np
import pytest
import tvm

from pocketformer.compiler.errors import BadRecords
from pocketformer.compiler.tuning.trace_search import TraceSearch
from pocketformer.schedules.cpu.elementwise import NOT_TUNED, TUNED, ScheduleRest, unscheduled
from pocketformer.schedules.cpu.replay import MOST_TEXT, key_of, replay, replayed, text_of, trouble
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


def nothing_to_divide_by(instructions, decisions):
    at = place(instructions, "SamplePerfectTile")
    next(each for each in decisions if each[0] == at)[1][-1] = 0


def nested(instructions, _):
    instructions[0][1] = [[[[[["b0"]]]]]]


def out_of_bounds(instructions, _):
    """More steps than the loop has, and no check that leaves them out."""
    at = place(instructions, "Split")
    instructions[at][1:3] = [[instructions[at][1][0], 3, 3, 3, 7], [True, True]]


def huge_tile(instructions, _):
    """Loops over millions of places that the function does not have."""
    at = place(instructions, "Split")
    instructions[at][1][1:] = [1, 1, 1 << 15, 1 << 15]


def endless_tile(instructions, _):
    """Steps that indices have no room for."""
    at = place(instructions, "Split")
    instructions[at][1][1:] = [1 << 16] * 4


def many_loops(instructions, _):
    at = place(instructions, "Split")
    instructions[at][1][1:] = [1] * 1500
    instructions[at][3] = [f"l{i}" for i in range(1500)]


def other_memory(instructions, _):
    instructions[place(instructions, "CacheWrite")][2][1] = "shared"


def unrolled(instructions, _):
    """Code without end."""
    (loop,) = instructions[place(instructions, "Vectorize")][1]
    instructions.append(["Annotate", [loop, 513], ["pragma_auto_unroll_max_step"], []])


def unrolled_block(instructions, _):
    (block,) = instructions[place(instructions, "GetSBlock")][3]
    instructions.append(["Annotate", [block, 1 << 20], ["pragma_auto_unroll_max_step"], []])


def unrolled_by_a_word(instructions, _):
    (loop,) = instructions[place(instructions, "Vectorize")][1]
    instructions.append(["Annotate", [loop, '"abc"'], ["pragma_auto_unroll_max_step"], []])


def colours(instructions, _):
    """What a terminal would obey."""
    instructions[place(instructions, "Vectorize")][1] = ["\x1b[31m"]


def coloured_kind(instructions, _):
    instructions[0][0] = "\x1b[31m" + "x" * 9999


@pytest.mark.parametrize("change", [
    foreign_code, foreign_primitive, undecided, nothing_to_divide_by, nested, out_of_bounds,
    huge_tile, endless_tile, many_loops, other_memory, unrolled, unrolled_block,
    unrolled_by_a_word, colours, coloured_kind,
])
def test_a_hostile_trace_is_refused(conv, steps, change):
    func = tvm.ir.load_json(conv.text)
    assert replayed(func, steps) is not None
    with pytest.raises(BadRecords) as error:
        replayed(func, hostile(steps, change))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 120


def loops_of(block, count, *rest):
    """A trace that asks for the `count` loops of `block` and goes on with `rest`."""
    loops = [f"l{i}" for i in range(count)]
    first = [["GetSBlock", [], [block, "main"], ["b0"]], ["GetLoops", ["b0"], [], loops]]
    return json.dumps([[*first, *rest], []])


@pytest.mark.parametrize(("case", "steps", "why"), [
    ("transpose", loops_of(
        "T_transpose", 3, ["Parallel", ["l0"], [], []], ["Parallel", ["l1"], [], []]), "nests"),
    ("concat", loops_of(
        "T_concat", 2, ["Vectorize", ["l0"], [], []], ["Vectorize", ["l1"], [], []]), "nests"),
    ("concat", loops_of(
        "T_concat", 2, ["Vectorize", ["l0"], [], []], ["Parallel", ["l1"], [], []]), "nests"),
    ("softmax", loops_of(
        "T_softmax_exp", 2, ["Parallel", ["l1"], [], []],
        ["GetSBlock", [], ["T_softmax_expsum", "main"], ["b1"]],
        ["ReverseComputeAt", ["b1", "l1"], [1, -1], []]), "shares a sum"),
])
def test_loops_that_must_not_run_at_once_are_refused(case, steps, why):
    with pytest.raises(BadRecords, match=why):
        replayed(tvm.ir.load_json(function(case).text), steps)


@pytest.mark.parametrize("text", [
    "", "{}", "[]", "[[], 1]", "[[1], []]", '[[["GetSBlock", 1, [], []]], []]', "[" * 9999,
    "[[],[]]" + " " * MOST_TEXT, '[[["EnterPostproc",[],[],[]]' * 2,
])
def test_text_that_is_no_trace_is_refused(text):
    assert trouble(text)


def test_a_trace_is_replayed_as_it_was_found(conv, steps):
    assert text_of(replay(tvm.ir.load_json(conv.text), steps).trace) == steps


def some_change(chosen, instructions, decisions):
    """Swap, drop, mix or repeat two instructions or decisions, or change a number or a name."""
    parts = instructions if chosen.random() < 0.7 else decisions
    at, to = chosen.integers(len(parts), size=2)
    match chosen.integers(6):
        case 0:
            parts[at], parts[to] = parts[to], parts[at]
        case 1:
            del parts[at]
        case 2:
            parts[at] = [*parts[at][:1], *parts[to][1:]]
        case 3 if parts is instructions:
            parts.append(parts[at])
        case 4 if parts is instructions:
            parts[at][1] = [each if each == "None" or not isinstance(each, str)
                            else f"{each[0]}{chosen.integers(99)}" for each in parts[at][1]]
        case _ if parts is decisions:
            value = parts[at][1]
            number = int(chosen.integers(1, 9))
            parts[at][1] = number if isinstance(value, int) else [*value[:-1], number]
        case _:
            kinds = ("Parallel", "Vectorize", "ComputeInline", "ReverseComputeAt", "ComputeAt")
            parts[at][0] = str(chosen.choice(kinds))


@pytest.mark.parametrize("case", ["depthwise_conv", "wide_conv", "softmax", "argmax"])
def test_any_change_of_a_trace_is_refused_or_changes_no_result(case):
    """The compiler is not to end with whoever reads such a record, nor the program."""
    shapes, body = CASES[case]
    workload, chosen = function(case), np.random.default_rng(1)
    func, plain = tvm.ir.load_json(workload.text), lowered(shapes, body, symbolic=False)
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = run(ScheduleRest(HOST)(plain), arrays)
    points = TraceSearch(workload, HOST, learns=False, seed=0).propose(3)
    made = {}
    for i in range(240):
        steps = points[i % 3].steps
        for _ in range(1 + i % 2):
            steps = hostile(steps, lambda *parts: some_change(chosen, *parts))
        with suppress(BadRecords):
            made[replayed(func, steps).script()] = steps
    assert len(made) > 4
    for steps in list(made.values())[:12]:
        mod = scheduled(plain, steps)
        assert told(mod, TUNED) == ["a record"]
        np.testing.assert_allclose(run(mod, arrays), expected, rtol=2e-5, atol=1e-5)
