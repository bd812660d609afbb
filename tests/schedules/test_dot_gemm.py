"""Linear kernels with weights of short numbers, at the sizes where tiles, panels and words end."""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.dot_gemm import DotGemm
from pocketformer.schedules.cpu.dot_right import SEVERAL
from pocketformer.schedules.cpu.dot_table import DOTS, dot_named
from pocketformer.schedules.cpu.intrinsics import TABLE
from pocketformer.schedules.cpu.kernel import load, prim_func, store
from pocketformer.schedules.workloads import Linear, QuantizedLinear
from tests.schedules.epilogue import assert_rounded, finished
from tests.schedules.running import (
    assert_agrees,
    call,
    instructions,
    kernel_of,
    kernels,
    packed,
    random,
    stand_in,
)

ROWS = (1, 2, 7, 8, 9, 33, 131)


def bfloat16(m, n, k, **options):
    return Linear(m, n, k, dtype="bfloat16", **options)


ANY = bfloat16(None, 50, 37, bias=True, residual=True)
PRODUCTS = [*kernels(ANY), *instructions(ANY, "bfloat16")]


def check(workload, isa, m):
    """Against float64 products of the rounded numbers."""
    n, k = workload.n, workload.k
    x = random(m, k).astype(workload.x_dtype)
    weight = (random(k, n) / math.sqrt(k)).astype(workload.dtype)
    inputs = [x, packed(weight, kernel_of(workload, isa).packed_shape)]
    rounded = x.astype(workload.dtype).astype("float64")
    expected = finished(workload, rounded @ weight.astype("float64"), inputs)
    if workload.out_dtype != "float32":
        assert_rounded(workload, isa, inputs, expected)
        return
    (result,) = call(workload, isa, inputs, (m, n))
    tolerance = "float32 kernel"
    if workload.dtype == "float16":     # and so are its sums
        tolerance = "float16 kernel"
    elif workload.activation in ("gelu", "gelu_tanh", "silu"):
        tolerance = "bfloat16 activation"
    assert_agrees(result, expected, tolerance)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_any_number_of_rows(isa):
    for m in ROWS:
        check(ANY, isa, m)


@pytest.mark.parametrize("isa", PRODUCTS)
def test_a_known_number_of_rows(isa):
    check(bfloat16(9, 96, 70, activation="relu"), isa, 9)


@pytest.mark.parametrize("isa", PRODUCTS)
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_activation(isa, activation):
    check(bfloat16(10, 53, 16, bias=True, activation=activation, residual=True), isa, 10)


@pytest.mark.parametrize("isa", PRODUCTS)
@pytest.mark.parametrize("k", [36, 37])
def test_numbers_that_are_stored_as_bfloat16(isa, k):
    work = bfloat16(10, 50, k, x_dtype="bfloat16", bias=True)
    check(work, isa, 10)
    check(replace(work, residual=True, out_dtype="bfloat16"), isa, 10)


@pytest.mark.parametrize("isa", PRODUCTS)
@pytest.mark.parametrize("activation", ["", "gelu"])
def test_a_result_of_integers(isa, activation):
    check(bfloat16(10, 50, 24, bias=True, activation=activation, out_dtype="int8"), isa, 10)


@pytest.mark.parametrize("isa", [isa for isa in PRODUCTS if "mmla" in isa.values[0]])
@pytest.mark.parametrize("k", [32, 37, 41])     # and a last group without a second, or part of one
def test_matrices_of_weights_that_many_tiles_take(isa, k):
    rows = 8 * SEVERAL - 1
    check(bfloat16(rows, 192, k, bias=True), isa, rows)


@pytest.mark.parametrize("isa", instructions(Linear(None, 53, 37, dtype="float16"), "float16"))
def test_float16(isa):
    workload = Linear(None, 53, 37, bias=True, residual=True, dtype="float16")
    for m in ROWS:
        check(workload, isa, m)
    for k in (128, 300):
        check(Linear(9, 50, k, activation="relu", dtype="float16"), isa, 9)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 200),
    k=st.integers(1, 150),
    bias=st.booleans(),
    isa=st.sampled_from([isa.name for isa in TABLE]),
)
def test_any_sizes(m, n, k, bias, isa):
    check(bfloat16(m, n, k, bias=bias), isa, m)


def test_rounding_is_that_of_bfloat16():
    """The way that needs no instruction: ties to even, infinities and NaN kept."""
    dot = dot_named("avx2", "bfloat16")
    with prim_func("f") as function:
        x, out = function.argument("x", (8,)), function.argument("out", (8,))
        store(out, dot.left(load(x, 0, lanes=8)), 0)
    run = tvm.compile(function.func, target=targets.load("host").tvm())["f"]
    nan = np.array([0x7FFFFFFF], "uint32").view("float32")[0]
    array = np.array([nan, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -0.0, 1e-40, np.pi], "f4")
    result = tvm.runtime.tensor(np.zeros(8, "float32"))
    run(tvm.runtime.tensor(array), result)
    expected = array.astype(ml_dtypes.bfloat16).astype("float32")
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize("dot", [dot for dot in DOTS if dot.dtype == "bfloat16"],
                         ids=lambda dot: dot.name)
def test_the_layout_of_weights_does_not_depend_on_the_rows(dot):
    for n in (2, 50, 384, 30522):
        works = [bfloat16(m, n, 8) for m in (None, 1, 7, 128)]
        assert len({DotGemm.best(dot, work).kernel(work, stand_in(dot)).packed_shape
                    for work in works}) == 1


@pytest.mark.parametrize("family", ["x86_64-linux", "arm64-android"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_all_of_a_processors_levels_read_the_same_layout(dtype, family):
    for n in (2, 16, 50, 384, 30522):
        work = QuantizedLinear(8, n, 30) if dtype == "int8" else bfloat16(8, n, 30)
        assert len({pick(work, level).packed_shape
                    for level in targets.load(family).variants}) == 1


@pytest.mark.parametrize("family", ["x86_64-linux", "arm64-android"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_all_of_a_processors_levels_can_read_the_same_other_layouts(dtype, family):
    for n in (96, 384):
        work = QuantizedLinear(9, n, 30) if dtype == "int8" else bfloat16(9, n, 30)
        layouts = {frozenset(point.layout for point in DotGemm.space(level, work))
                   for level in targets.load(family).variants}
        assert len(layouts) == 1
        assert len(next(iter(layouts))) > 1


def test_pack_gives_what_the_kernel_reads():
    kernel = kernel_of(bfloat16(None, 50, 9), "avx2")
    weight = relax.Var("weight", relax.TensorType((9, 50), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [weight]):
        builder.emit_func_output(builder.emit(kernel.pack(weight)))
    library = tvm.compile(builder.get(), target=targets.load("host").tvm())
    array = random(9, 50)
    result = relax.VirtualMachine(library, tvm.cpu())["main"](tvm.runtime.tensor(array)).numpy()
    np.testing.assert_array_equal(result, packed(array, kernel.packed_shape))


@pytest.mark.parametrize(("x_dtype", "every"), [("float32", 4), ("bfloat16", 12)])
def test_every_point_of_the_space_computes_the_same(x_dtype, every):
    host = targets.load("host")
    workload = bfloat16(20, 24, 70, x_dtype=x_dtype)
    x, weight = random(20, 70).astype(x_dtype), (random(70, 24) / 8).astype(ml_dtypes.bfloat16)
    expected = x.astype(ml_dtypes.bfloat16).astype("float64") @ weight.astype("float64")
    points = list(DotGemm.space(host, workload))
    assert DotGemm.default(host, workload) in points
    for point in points[::every]:
        kernel = point.kernel(workload, host)
        run = tvm.compile(kernel.func.with_attr("global_symbol", "f"), target=host.tvm())["f"]
        out = tvm.runtime.tensor(np.full((20, 24), np.nan, "float32"))
        run(*map(tvm.runtime.tensor, (x, packed(weight, kernel.packed_shape))), out)
        assert_agrees(out.numpy(), expected)


@pytest.mark.parametrize(("rows", "chosen"), [
    (8, ["neon", "bfmmla", "avx2"]), (1, ["neon", "bfdot", "avx2"])])
def test_the_first_instruction_that_a_target_has_is_taken_and_no_matrices_for_a_row(rows, chosen):
    def dot(name):
        return pick(bfloat16(rows, 96, 64), targets.load(name)).name.rpartition("_")[2]

    assert [dot(name) for name in ("arm64-android", "snapdragon8gen3", "x86_64-linux")] == chosen
