"""Functions without a template compute the same with a schedule, in vectors and without copies."""

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, tirx
from tvm.ir import IRModule
from tvm.relax import op, transform
from tvm.script import tirx as T

from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.elementwise import ScheduleRest
from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.schedules.workloads import Softmax
from tests.schedules import phone
from tests.schedules.assembly import innermost_loops
from tests.schedules.running import random

HOST = targets.load("host")


def lowered(shapes, body, symbolic):
    """The PrimFuncs of `body`, fused; with `symbolic`, the first axis has any size."""
    first = tirx.Var("n", "int64")
    params = [
        relax.Var(f"x{i}", relax.TensorType(
            [first if symbolic and axis == 0 and size == shapes[0][0] else size
             for axis, size in enumerate(shape)], "float32"))
        for i, shape in enumerate(shapes)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(builder.normalize(body(*params)))
        builder.emit_func_output(out)
    mod = builder.get()
    with HOST.tvm():
        for step in (transform.LegalizeOps(), transform.AnnotateTIROpPattern(),
                     transform.FuseOps(), transform.FuseTIR()):
            mod = step(mod)
    return mod


def run(mod, arrays):
    library = tvm.compile(mod, target=HOST.tvm())
    result = relax.VirtualMachine(library, tvm.cpu())["main"](*map(tvm.runtime.tensor, arrays))
    return result.numpy()


def allocated(mod):
    """How many numbers the blocks of all functions allocate for themselves."""
    return sum(
        int(np.prod([int(size) for size in buffer.shape]))
        for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)
        for buffer in func.body.block.alloc_buffers)


def rotary(x, cos, sin):
    """Each number of a head's first half with one of its second half, turned by an angle."""
    half = int(x.ty.shape[-1]) // 2
    first = op.strided_slice(x, [3], [0], [half], assume_inbound=True)
    second = op.strided_slice(x, [3], [half], [2 * half], assume_inbound=True)
    turned = op.concat([op.negative(second), first], axis=-1)
    return op.add(op.multiply(x, cos), op.multiply(turned, sin))


CASES = {
    "chain": ([(6, 40), (40,)], lambda x, y: op.multiply(op.exp(op.add(x, y)), op.tanh(x))),
    "chain_of_odd_length": ([(7, 13)], lambda x: op.sqrt(op.add(op.multiply(x, x), op.exp(x)))),
    "one_axis": ([(5000,)], lambda x: op.add(op.exp(x), x)),
    "scalar": ([(6, 1), (1, 1)], op.add),
    "short_last_axis": ([(50, 8, 3)], lambda x: op.add(op.multiply(x, x), x)),
    "transpose": ([(6, 33, 64)], lambda x: op.permute_dims(op.add(x, x), [0, 2, 1])),
    "wide_transpose": ([(2, 32, 48)], lambda x: op.permute_dims(x, [0, 2, 1])),
    "channels_first": ([(2, 8, 12, 32)], lambda x: op.permute_dims(op.nn.silu(x), [0, 3, 1, 2])),
    "rotary": ([(2, 8, 4, 32), (8, 1, 32), (8, 1, 32)], rotary),
    "swiglu": ([(6, 48), (6, 48)], lambda x, y: op.multiply(op.nn.silu(x), y)),
    "concat": ([(6, 5), (6, 9)], lambda x, y: op.concat([x, y], axis=1)),
    "mean_of_rows": ([(6, 96)], lambda x: op.mean(op.exp(x), axis=-1)),
    "mean_of_odd_rows": ([(6, 37)], lambda x: op.mean(x, axis=-1, keepdims=True)),
    "sum_of_columns": ([(6, 20, 64)], lambda x: op.sum(x, axis=1)),
    "max_of_columns": ([(6, 20, 37)], lambda x: op.max(x, axis=1)),
    "sum_of_all": ([(6, 20)], op.sum),
    "argmax": ([(6, 50)], lambda x: op.argmax(x, axis=-1)),
    "softmax": ([(6, 50)], lambda x: op.nn.softmax(x, axis=-1)),
    "matmul": ([(6, 20), (20, 128)], op.matmul),
    "matmul_of_odd_width": ([(6, 20), (20, 35)], lambda x, w: op.nn.relu(op.matmul(x, w))),
    "matmul_with_bias": (
        [(6, 20), (20, 48), (48,)], lambda x, w, b: op.tanh(op.add(op.matmul(x, w), b))),
    "batched_matmul": ([(6, 3, 8), (6, 8, 16)], op.matmul),
    "conv": ([(2, 3, 9, 9), (4, 3, 3, 3)], lambda x, w: op.nn.relu(
        op.nn.conv2d(x, w, padding=(1, 1)))),
    "wide_conv": ([(1, 3, 32, 32), (8, 3, 3, 3), (1, 8, 1, 1)], lambda x, w, b: op.nn.silu(
        op.add(op.nn.conv2d(x, w, padding=(1, 1)), b))),
    "strided_conv": ([(1, 3, 32, 32), (8, 3, 3, 3)], lambda x, w: op.nn.conv2d(
        x, w, strides=(2, 2), padding=(1, 1))),
    "depthwise_conv": ([(1, 8, 16, 16), (8, 1, 3, 3)], lambda x, w: op.nn.conv2d(
        x, w, padding=(1, 1), groups=8)),
    "patches": ([(1, 3, 32, 32), (16, 3, 16, 16)], lambda x, w: op.nn.conv2d(
        x, w, strides=(16, 16))),
    "wide_matmul": ([(8, 20), (20, 128)], lambda x, w: op.nn.relu(op.matmul(x, w))),
    "pool": ([(2, 3, 8, 8)], lambda x: op.nn.max_pool2d(x, pool_size=(2, 2), strides=(2, 2))),
}


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
