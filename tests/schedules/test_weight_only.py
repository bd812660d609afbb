"""Linear kernels with weights of 8 or 4 bits against float64, at the sizes where things end."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.intrinsics import TABLE
from pocketformer.schedules.cpu.weight_formats import SHIFTS
from pocketformer.schedules.cpu.weight_only import WeightOnly
from pocketformer.schedules.workloads import WeightOnlyLinear
from tests.schedules.epilogue import finished
from tests.schedules.running import assert_agrees, call, kernel_of, kernels, random, stand_in

HOST = targets.load("host")
INT8 = WeightOnlyLinear(None, 50, 69, bits=8)
INT4 = WeightOnlyLinear(None, 50, 72, bits=4, group=24)
LACKS_VNNI = pytest.mark.skipif(not {"avx512f", "avx512vnni"} <= HOST.isa, reason="no vpdpbusd")
WHOLE = [pytest.param("vpdpbusd", id="vpdpbusd", marks=LACKS_VNNI),
         pytest.param("sdot@cortex-a76", id="sdot@cortex-a76")]
ISAS = [*kernels(INT8), *WHOLE]
FORMATS = pytest.mark.parametrize(
    "work", [INT8, replace(INT8, round_x=True), INT4, replace(INT4, round_x=True)], ids=str)


def numbers(work, seed=0):
    """A weight that has the least and the greatest number, and its scales."""
    random_numbers = np.random.default_rng([seed, work.n, work.k])
    most = 1 << (work.bits - 1)
    weight = random_numbers.integers(-most, most, (work.k, work.n), "int8")
    weight.flat[0], weight.flat[-1] = -most, most - 1
    return weight, random_numbers.uniform(0.5, 1.5, (work.groups, work.n)).astype("float32")


def packed_numbers(work, weight, scale, isa):
    """Both, as the kernel reads them."""
    return packed_for(work, weight, scale, kernel_of(work, isa).packed_shape[2])


def packed_for(work, weight, scale, columns):
    """Both, for panels of so many columns; numpy's way."""
    deep = 32 // work.bits
    panels, rows = -(-work.n // columns), -(-work.k // deep)
    wide = np.zeros((rows * deep, panels * columns), "int64")
    wide[: work.k, : work.n] = weight
    parts = wide.reshape(rows, deep, panels, columns).transpose(2, 0, 3, 1)
    if work.bits == 8:
        words = parts.astype("int8")
    else:
        parts = parts + 8 * (np.arange(panels * columns) < work.n).reshape(panels, 1, columns, 1)
        words = (parts << np.array(SHIFTS)).sum(-1).astype("uint32").view("int32")
    scales = np.zeros((work.groups, panels * columns), "float32")
    scales[:, : work.n] = scale
    scales = scales.reshape(work.groups, panels, columns).transpose(1, 0, 2)
    return np.ascontiguousarray(words), np.ascontiguousarray(scales)


def rounded(work, x):
    """What `round_x` makes of x, in float64."""
    groups = x.astype("float64").reshape(len(x), work.groups, -1)
    unit = np.abs(groups).max(-1, keepdims=True) / 127
    return (np.round(groups / np.where(unit > 0, unit, 1)) * unit).reshape(x.shape)


def check(work, isa, m, x=None):
    weight, scale = numbers(work)
    x = random(m, work.k) if x is None else x
    exact = rounded(work, x) if work.round_x else x.astype("float64")
    inputs = [x, *packed_numbers(work, weight, scale, isa)]
    products = exact @ (weight * np.repeat(scale.astype("float64"), work.k // work.groups, 0))
    expected = finished(work, products, inputs, size=100)
    (result,) = call(work, isa, inputs, (m, work.n))
    assert_agrees(result, expected)


@FORMATS
@pytest.mark.parametrize("isa", ISAS)
def test_any_number_of_rows(isa, work):
    for m in (1, 2, 5, 9):
        check(work, isa, m)


@FORMATS
@pytest.mark.parametrize("isa", ISAS)
def test_one_row(isa, work):
    check(replace(work, m=1, bias=True, activation="relu", residual=True), isa, 1)


@pytest.mark.parametrize("m", [3, 5])
@pytest.mark.parametrize("isa", ["avx512", "neon", *WHOLE])
def test_a_known_number_of_rows_that_tiles_do_not_divide(isa, m):
    check(replace(INT4, m=m), isa, m)


@pytest.mark.parametrize("isa", ["avx512", "neon", *WHOLE])
def test_more_rows_than_are_prepared_at_once(isa):
    check(WeightOnlyLinear(None, 12, 16, bits=4, group=8), isa, 150)


@pytest.mark.parametrize("isa", ["avx512", "neon", *WHOLE])
def test_numbers_of_many_sizes(isa):
    """Groups of zeros, of tiny and of huge numbers; each has a scale of its own."""
    x = np.concatenate([np.zeros((2, 24)), 1e-3 * random(2, 24), 1e3 * random(2, 24)], 1)
    check(replace(INT4, m=2), isa, 2, x.astype("float32"))
    check(replace(INT8, m=2), isa, 2, np.zeros((2, 69), "float32") + random(1, 69))


@pytest.mark.parametrize("isa", WHOLE)
@pytest.mark.parametrize("group", [64, 72])
def test_the_greatest_sums_of_a_group_do_not_overflow(isa, group):
    """Those of 64 products are just below 2**31."""
    work = WeightOnlyLinear(3, 12, 2 * group, 4, group)
    weight, scale = np.full((work.k, work.n), -8, "int8"), numbers(work)[1]
    x = np.repeat(np.float32([[1.0], [-1.0], [0.7]]), work.k, 1)
    expected = x.astype("float64") @ (weight * np.repeat(scale.astype("float64"), group, 0))
    (result,) = call(work, isa, [x, *packed_numbers(work, weight, scale, isa)], (3, work.n))
    assert_agrees(result, expected)


@pytest.mark.parametrize("isa", ["avx512", *WHOLE])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_none_is_not_hidden(isa, number):
    work = replace(INT8, m=1, round_x=True)
    weight, scale = numbers(work)
    x = random(1, work.k)
    x[0, 3] = number
    (result,) = call(work, isa, [x, *packed_numbers(work, weight, scale, isa)], (1, work.n))
    assert not np.isfinite(result).any()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    m=st.one_of(st.just(1), st.integers(2, 12)),
    n=st.integers(1, 150),
    groups=st.integers(1, 4),
    group=st.sampled_from([None, 8, 32, 40, 64]),
    odd=st.integers(0, 9),
    round_x=st.booleans(),
    bias=st.booleans(),
    isa=st.sampled_from([isa.name for isa in TABLE]),
)
def test_any_sizes(m, n, groups, group, odd, round_x, bias, isa):
    k, bits = (16 * groups + odd, 8) if group is None else (groups * group, 4)
    check(WeightOnlyLinear(m, n, k, bits, group, round_x, bias), isa, m)


@pytest.mark.parametrize("isa", TABLE, ids=lambda isa: isa.name)
@pytest.mark.parametrize("n", [2, 50, 384, 30522])
def test_the_layout_of_weights_does_not_depend_on_the_rows(isa, n):
    for work in (replace(INT8, n=n), replace(INT4, n=n)):
        shapes = {pick(replace(work, m=m), stand_in(isa)).packed_shape for m in (None, 1, 7)}
        assert len(shapes) == 1


@pytest.mark.parametrize("work", [INT8, INT4], ids=str)
def test_pack_gives_what_the_kernel_reads(work):
    kernel = kernel_of(work, "avx2")
    given = [relax.Var("weight", relax.TensorType((work.k, work.n), "int8")),
             relax.Var("scale", relax.TensorType((work.groups, work.n), "float32"))]
    builder = relax.BlockBuilder()
    with builder.function("main", given):
        builder.emit_func_output(relax.Tuple([
            builder.emit(kernel.pack(given[0])), builder.emit(kernel.pack_scale(given[1]))]))
    machine = relax.VirtualMachine(tvm.compile(builder.get(), target=HOST.tvm()), tvm.cpu())
    weight, scale = numbers(work)
    found = machine["main"](tvm.runtime.tensor(weight), tvm.runtime.tensor(scale))
    for array, expected in zip(found, packed_numbers(work, weight, scale, "avx2"), strict=True):
        np.testing.assert_array_equal(array.numpy(), expected)


def test_every_point_of_the_space_computes_the_same():
    work = WeightOnlyLinear(9, 50, 16, bits=4, group=8)
    points = list(WeightOnly.space(HOST, work))
    assert WeightOnly.default(HOST, work) in points
    x, (weight, scale) = random(9, 16), numbers(work)
    expected = x.astype("float64") @ (weight * np.repeat(scale.astype("float64"), 8, 0))
    for point in points:
        func = point.kernel(work, HOST).func.with_attr("global_symbol", "kernel")
        given = packed_for(work, weight, scale, *point.layout)
        out = tvm.runtime.tensor(np.full((9, 50), np.nan, "float32"))
        tvm.compile(func, target=HOST.tvm())["kernel"](*map(tvm.runtime.tensor, (x, *given)), out)
        assert_agrees(out.numpy(), expected)


def test_a_workload_names_itself():
    work = WeightOnlyLinear(None, 384, 1536, 4, 32, True, bias=True, activation="silu")
    assert str(work) == "linear_anyx384x1536_w4g32_rounded_bias_silu"
    assert str(replace(work, m=1, bits=8, group=None, round_x=False, bias=False)) == (
        "linear_1x384x1536_w8_silu")
