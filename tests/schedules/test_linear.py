"""Linear kernels against float64, at the sizes where tiles and panels end."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.gemm import Gemm
from pocketformer.schedules.cpu.intrinsics import TABLE
from pocketformer.schedules.workloads import ACTIVATIONS, Linear
from tests.schedules.epilogue import assert_rounded, finished
from tests.schedules.running import (
    assert_agrees,
    call,
    call_here,
    compiled_here,
    kernel_of,
    kernels,
    packed,
    random,
    stand_in,
)

ROWS = (1, 2, 7, 8, 9, 33, 127, 128)
GEMMS = kernels(Linear(None, 96, 37))


def check(workload, isa, m):
    n, k = workload.n, workload.k
    x, weight = random(m, k), random(k, n) / np.float32(math.sqrt(k))
    inputs = [x, packed(weight, kernel_of(workload, isa).packed_shape)]
    expected = finished(workload, x.astype("float64") @ weight, inputs)
    if workload.out_dtype == "float32":
        (result,) = call(workload, isa, inputs, (m, n))
        assert_agrees(result, expected)
    else:
        assert_rounded(workload, isa, inputs, expected)


@pytest.mark.parametrize("isa", GEMMS)
@pytest.mark.parametrize("n", [96, 50])
def test_any_number_of_rows(isa, n):
    workload = Linear(None, n, 37, bias=True, residual=True)
    for m in ROWS:
        check(workload, isa, m)


@pytest.mark.parametrize("isa", GEMMS)
@pytest.mark.parametrize("m", [1, 9, 131])
def test_a_known_number_of_rows(isa, m):
    check(Linear(m, 50, 33, bias=True), isa, m)


@pytest.mark.parametrize("isa", GEMMS)
@pytest.mark.parametrize("m", [1, 9])
@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_a_short_result(isa, m, dtype):
    check(Linear(m, 50, 33, bias=True, residual=True, out_dtype=dtype), isa, m)


def test_more_rows_than_are_packed_at_once():
    check(Linear(None, 12, 5), "neon", 300)
    check(Linear(300, 12, 5), "neon", 300)


@pytest.mark.parametrize("isa", kernels(Linear(None, 96, 37), "avx512", "neon"))
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_activation(isa, activation):
    check(Linear(10, 53, 16, bias=True, activation=activation, residual=True), isa, 10)


@pytest.mark.parametrize("n", [1, 2, 3, 15])
def test_a_layer_narrower_than_a_vector(n):
    check(Linear(None, n, 40, bias=True, activation="gelu"), "avx512", 5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    m=st.one_of(st.sampled_from(ROWS), st.integers(1, 60)),
    n=st.integers(1, 200),
    k=st.integers(1, 70),
    bias=st.booleans(),
    residual=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    isa=st.sampled_from([isa.name for isa in TABLE]),
)
def test_any_sizes(m, n, k, bias, residual, activation, isa):
    check(Linear(m, n, k, bias, activation, residual), isa, m)


@pytest.mark.parametrize("isa", TABLE, ids=lambda isa: isa.name)
@pytest.mark.parametrize("n", [2, 50, 128, 312, 384, 1536, 30522])
def test_the_layout_of_weights_does_not_depend_on_the_rows(isa, n):
    shapes = {pick(Linear(m, n, 8), stand_in(isa)).packed_shape for m in (None, 1, 7, 128)}
    assert len(shapes) == 1


@pytest.mark.parametrize("arch", sorted({isa.arch for isa in TABLE}))
@pytest.mark.parametrize("n", [2, 50, 96, 312, 384])
def test_the_instruction_sets_of_a_processor_family_share_a_layout(arch, n):
    rows = [isa for isa in TABLE if isa.arch == arch]
    assert len({pick(Linear(128, n, 8), stand_in(isa)).packed_shape for isa in rows}) == 1


@pytest.mark.parametrize("n", [96, 50])
def test_pack_gives_what_the_kernel_reads(n):
    kernel = kernel_of(Linear(None, n, 8), "avx2")
    weight = relax.Var("weight", relax.TensorType((8, n), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [weight]):
        builder.emit_func_output(builder.emit(kernel.pack(weight)))
    library = tvm.compile(builder.get(), target=targets.load("host").tvm())
    array = random(8, n)
    result = relax.VirtualMachine(library, tvm.cpu())["main"](tvm.runtime.tensor(array)).numpy()
    assert result.shape == kernel.packed_shape
    np.testing.assert_array_equal(result, packed(array, kernel.packed_shape))


def test_every_point_of_the_space_computes_the_same():
    target = stand_in(TABLE[1])
    workload = Linear(20, 24, 7, bias=True, activation="relu")
    x, weight, bias = random(20, 7), random(7, 24), random(24)
    expected = np.maximum(x.astype("float64") @ weight + bias, 0)
    points = list(Gemm.space(target, workload))
    assert Gemm.default(target, workload) in points
    for point in points[::9]:
        kernel = point.kernel(workload, target)
        run = tvm.compile(
            kernel.func.with_attr("global_symbol", "f"), target=targets.load("host").tvm())["f"]
        out = tvm.runtime.tensor(np.full((20, 24), np.nan, "float32"))
        run(*map(tvm.runtime.tensor, (x, packed(weight, kernel.packed_shape), bias)), out)
        assert_agrees(out.numpy(), expected)


@pytest.mark.parametrize(("rows", "columns"), [(15, 32), (31, 16)])
def test_a_tile_that_is_almost_twice_what_the_stack_holds(rows, columns):
    target = stand_in(TABLE[1])
    workload = Linear(rows, columns, 5, activation="relu")
    tile = replace(Gemm.default(target, workload), rows=rows, columns=columns, panel=columns)
    kernel = tile.kernel(workload, target)
    x, weight = random(rows, 5), random(5, columns)
    inputs = [x, packed(weight, kernel.packed_shape)]
    (result,) = call_here(compiled_here(kernel), inputs, (rows, columns))
    assert_agrees(result, np.maximum(x.astype("float64") @ weight, 0))


def test_no_kernel_for_what_is_no_workload():
    with pytest.raises(LookupError, match="no kernel computes"):
        pick("softmax", targets.load("host"))


def test_a_workload_names_itself():
    workload = Linear(None, 384, 1536, bias=True, activation="gelu")
    assert str(workload) == "linear_anyx384x1536_bias_gelu"
    assert str(replace(workload, m=8, residual=True, activation="", bias=False)) == (
        "linear_8x384x1536_residual")
