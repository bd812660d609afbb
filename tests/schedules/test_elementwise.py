"""Functions without a template compute the same with a schedule, in vectors and without copies."""

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, tirx
from tvm.ir import IRModule
from tvm.relax import op
from tvm.script import tirx as T

from pocketformer import targets
from pocketformer.passes.lower_math import LowerMath
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.elementwise import ScheduleRest
from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.schedules.workloads import Softmax
from tests.schedules import phone
from tests.schedules.assembly import innermost_loops
from tests.schedules.running import random
from tests.schedules.unscheduled import CASES, HOST, lowered, run


def allocated(mod):
    """How many numbers the blocks of all functions allocate for themselves."""
    return sum(
        int(np.prod([int(size) for size in buffer.shape]))
        for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)
        for buffer in func.body.block.alloc_buffers)


@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("case", CASES)
def test_a_schedule_changes_no_result(case, symbolic):
    shapes, body = CASES[case]
    plain = lowered(shapes, body, symbolic)
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = run(plain, arrays)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(run(ScheduleRest(HOST)(plain), arrays), expected, rtol=2e-5,
                               atol=1e-5)


@pytest.mark.parametrize("cpu", phone.CPUS)
@pytest.mark.parametrize("case", CASES)
def test_the_phone_computes_the_same(case, cpu):
    shapes, body = CASES[case]
    target = phone.target_of(cpu)
    plain = lowered(shapes, body, symbolic=True)
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    executable = tvm.compile(ScheduleRest(target)(plain), target=target.tvm())
    result = phone.Functions(executable, cpu).run_model(arrays)
    np.testing.assert_allclose(result, run(plain, arrays), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["host", "x86_64-linux", "arm64-android", "armv7-android"])
@pytest.mark.parametrize("terms", [4, 8, 16, 17, 32])
@pytest.mark.parametrize("body", [op.sum, op.argmax], ids=["sum", "argmax"])
def test_a_reduction_may_have_a_single_vector_of_terms(body, terms, target):
    plain = lowered([(6, terms)], lambda x: body(x, axis=-1), symbolic=False)
    x = np.random.default_rng().standard_normal((6, terms), "float32")
    expected = x.sum(-1, dtype="float64") if body is op.sum else x.argmax(-1)
    for variant in targets.load(target).variants:
        scheduled = ScheduleRest(variant)(plain)
        if target == "host":
            np.testing.assert_allclose(run(scheduled, [x]), expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("case", ["chain", "chain_of_odd_length", "transpose"])
def test_no_temporary_is_left_of_a_chain(case):
    shapes, body = CASES[case]
    plain = lowered(shapes, body, symbolic=False)
    assert allocated(plain) > 0
    assert allocated(ScheduleRest(HOST)(plain)) == 0


def loops(mod, kind):
    script = "\n".join(
        func.script() for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    return script.count(f"T.{kind}(")


@pytest.mark.parametrize(("rows", "shared"), [(4, False), (4000, True)])
def test_only_big_work_is_shared_by_threads(rows, shared):
    mod = lowered([(rows, 64)], lambda x: op.add(x, x), symbolic=False)
    assert bool(loops(ScheduleRest(HOST)(mod), "parallel")) == shared


@pytest.mark.parametrize("case", ["chain", "transpose", "sum_of_columns", "matmul", "mean_of_rows"])
def test_known_axes_become_vectors(case):
    shapes = [tuple(16 * size for size in shape) for shape in CASES[case][0]]
    mod = lowered(shapes, CASES[case][1], symbolic=False)
    assert loops(ScheduleRest(HOST)(mod), "vectorized") > 0


@pytest.mark.parametrize("case", ["rotary", "swiglu", "chain", "channels_first"])
def test_a_chain_is_one_loop_that_stores_nothing_on_the_way(case):
    mod = ScheduleRest(HOST)(lowered(*CASES[case], symbolic=False))
    functions = [func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)]
    assert len(functions) == 1
    assert allocated(mod) == 0
    assert loops(mod, "vectorized") == 1


def test_a_transposed_read_uses_up_its_cache_lines():
    mod = lowered([(2, 64, 96)], lambda x: op.permute_dims(x, [0, 2, 1]), symbolic=False)
    (func,) = (func for func in ScheduleRest(HOST)(mod).functions.values()
               if isinstance(func, tirx.PrimFunc))
    sch = s_tir.Schedule(IRModule({"main": func}))
    (block,) = sch.get_child_blocks(sch.get_sblock("root"))
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(block)]
    assert extents[-2:] == [isa_of(HOST).lanes] * 2


def test_an_expensive_term_is_not_computed_again_for_every_result():
    mod = lowered([(8, 16), (16, 16)], lambda x, w: op.matmul(op.exp(x), w), symbolic=False)
    script = ScheduleRest(HOST)(mod).script()
    (line,) = [line for line in script.splitlines() if "T.exp(" in line]
    assert "*" not in line


@pytest.mark.parametrize(("shapes", "body"), [
    ([(1, 90, 16, 32), (8, 90, 1, 1)], lambda x, w: op.nn.relu(op.nn.conv2d(x, w))),
    ([(8, 200), (200, 128)], op.matmul),
], ids=["conv", "matmul"])
def test_sums_of_products_stay_in_registers(shapes, body):
    target = targets.load("arm64-linux")
    mod = ScheduleRest(target)(lowered(shapes, body, symbolic=False))
    (func,) = (func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    library = tvm.compile(func.with_attr("global_symbol", "f"), target=target.tvm())
    loops = [lines for lines in innermost_loops(library.mod.inspect_source("asm"))
             if sum(line.startswith("fmla") for line in lines) >= 8]
    assert loops
    assert not any(line.startswith("st") for lines in loops for line in lines)


def test_numbers_are_quantised_a_vector_of_results_at_a_time():
    target = targets.load("raspberrypi5")

    def body(x):
        steps = op.round(op.multiply(x, relax.const(20.0, "float32")))
        return op.astype(op.clip(op.add(steps, relax.const(-3.0, "float32")), -128, 127), "int8")

    mod = LowerMath(target)(ScheduleRest(target)(lowered([(60, 384)], body, symbolic=False)))
    (func,) = (func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    library = tvm.compile(func.with_attr("global_symbol", "f"), target=target.tvm())
    loops = [lines for lines in innermost_loops(library.mod.inspect_source("asm"))
             if any(line.startswith("frint") for line in lines)]
    assert loops
    for lines in loops:
        numbers = 4 * sum(line.startswith("frint") for line in lines)
        assert numbers % 16 == 0
        assert len(lines) <= 2.5 * numbers


def test_padding_is_not_tested_for_in_every_product():
    shapes, body = CASES["wide_conv"]
    script = ScheduleRest(HOST)(lowered(shapes, body, symbolic=False)).script()
    (line,) = [line for line in script.splitlines() if "T.if_then_else(" in line]
    assert "*" not in line


def test_a_kernel_is_left_alone():
    kernel = pick(Softmax(3, 5), HOST).func
    mod = IRModule({"softmax": kernel})
    assert ScheduleRest(HOST)(mod)["softmax"].same_as(kernel)


def test_a_function_with_nested_blocks_and_loops_is_left_as_it_is():
    @T.prim_func(s_tir=True)
    def scan(x: T.Buffer((8, 4), "float32"), y: T.Buffer((8, 4), "float32")):
        for i in range(8):
            with T.sblock("row"):
                v = T.axis.spatial(8, i)
                y[v, 0] = x[v, 0]
                for j in range(3):
                    y[v, j + 1] = y[v, j] + x[v, j + 1]

    mod = ScheduleRest(HOST)(IRModule({"scan": scan.with_attr("global_symbol", "scan")}))
    x, out = random(8, 4), tvm.runtime.tensor(np.zeros((8, 4), "float32"))
    tvm.compile(mod, target=HOST.tvm())["scan"](tvm.runtime.tensor(x), out)
    np.testing.assert_allclose(out.numpy(), np.cumsum(x, 1), rtol=1e-5, atol=1e-6)
