"""Every point of a template's space builds and computes the same, whatever workload and machine."""

import itertools
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketformer import targets
from pocketformer.schedules.cpu import TEMPLATES, pick, template_of
from pocketformer.schedules.cpu.dot_gemm import DotGemm
from pocketformer.schedules.cpu.intrinsics import TABLE, isa_named
from pocketformer.schedules.workloads import (
    ACTIVATIONS,
    Attention,
    BatchMatmul,
    Linear,
    Lookup,
    Norm,
    QuantizedLinear,
    QuantizedMatmul,
    Softmax,
    WeightOnlyLinear,
)
from tests.schedules.epilogue import finished
from tests.schedules.running import (
    assert_agrees,
    call_here,
    compiled_here,
    packed,
    random,
    stand_in,
)
from tests.schedules.unscheduled import function

WORKLOADS = [
    Linear(128, 384, 1536, bias=True, activation="gelu"),
    Linear(9, 312, 33),
    Linear(None, 50, 37, residual=True),
    Linear(1, 384, 384),
    Linear(1, 50, 33),
    Linear(128, 384, 384, dtype="bfloat16"),
    Linear(1, 312, 312, dtype="bfloat16"),
    Linear(None, 50, 37, bias=True, dtype="bfloat16"),
    QuantizedLinear(9, 312, 33, zero=True),
    QuantizedLinear(None, 384, 384),
    QuantizedLinear(9, 312, 33, "float32", bias=True, activation="gelu", out_dtype="int8"),
    Linear(None, 50, 36, dtype="bfloat16", x_dtype="bfloat16", out_dtype="bfloat16"),
    WeightOnlyLinear(9, 50, 64, 4, 32),
    WeightOnlyLinear(1, 384, 64, 8, round_x=True),
    BatchMatmul(12, 128, 128, 64),
    BatchMatmul(None, None, None, None, transpose_b=True),
    QuantizedMatmul(12, 128, 128, 64),
    QuantizedMatmul(None, None, None, None, out_dtype="int8"),
    Attention(1, 128, 128, 12, 12, 32, 32, 0.2, (True, False, False)),
    Attention(None, None, None, 12, 4, 64, 64, 0.2, causal=True),
    Norm(128, 384, "layer", 1e-5, residual=True, bias=True),
    Norm(None, 384, "rms", 1e-5),
    Norm(128, 384, "layer", 1e-5, bias=True, store="rows"),
    Softmax(None, None),
    Softmax(100, 128),
    Lookup(None, 384, 1000, 4, 32),
    function("depthwise_conv"),
]
TARGETS = [*map(stand_in, TABLE), *map(targets.load, ("host", "pixel8", "snapdragon8gen3"))]
NAMES = [*(isa.name for isa in TABLE), *(target.name for target in TARGETS[len(TABLE):])]


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_a_space_begins_with_the_default_and_holds_nothing_twice(workload, target):
    template = template_of(workload)
    points = list(template.space(target, workload))
    assert points[0] == template.default(target, workload)
    assert len(set(points)) == len(points)


def test_these_workloads_are_of_every_template():
    assert {template_of(workload) for workload in WORKLOADS} == set(TEMPLATES)


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_points_have_kernels_of_their_own_names(target):
    for workload in WORKLOADS:
        points = list(template_of(workload).space(target, workload))
        names = {each.named(workload) if hasattr(each, "named") else each.name for each in points}
        assert len(names) == len(points)


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_points_build(target):
    chosen = Random(0)
    for workload in WORKLOADS:
        points = list(template_of(workload).space(target, workload))
        for point in chosen.sample(points, min(2, len(points))):
            kernel = pick(workload, target, point)
            assert kernel.func.attrs["global_symbol"] == kernel.name


def point_of(workload, isa, place):
    """The point at `place`, from 0 to 1, of the space that an instruction set has."""
    points = list(template_of(workload).space(stand_in(isa), workload))
    return points[int(place * (len(points) - 1))]


ISA = st.sampled_from(TABLE)
PLACE = st.floats(0, 1)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 150),
    known=st.booleans(),
    n=st.integers(1, 200),
    k=st.integers(1, 70),
    activation=st.sampled_from(ACTIVATIONS[:3]),
    residual=st.booleans(),
    dtype=st.sampled_from(["float32", "float32", "bfloat16"]),
    isa=ISA,
    place=PLACE,
)
# Tiles of 13 rows, which four lanes do not divide.
@example(rows=25, known=True, n=1, k=2, activation="", residual=False, dtype="float32",
         isa=isa_named("neon"), place=1.0)
def test_linear_layers_of_any_point(rows, known, n, k, activation, residual, dtype, isa, place):
    known = known or rows > 20      # all heights of a tile take long to compile
    work = Linear(rows if known else None, n, k, True, activation, residual, dtype)
    kernel = pick(work, stand_in(isa), point_of(work, isa, place))
    x, weight = random(rows, k), (random(k, n) / math.sqrt(k)).astype(dtype)
    inputs = [x, packed(weight, kernel.packed_shape)]
    products = x.astype(dtype).astype("float64") @ weight.astype("float64")
    expected = finished(work, products, inputs)
    (result,) = call_here(compiled_here(kernel), inputs, (rows, n))
    rough = dtype == "bfloat16" and activation == "gelu"
    assert_agrees(result, expected, "bfloat16 activation" if rough else "float32 kernel")


@pytest.mark.parametrize("isa", [TABLE[1], TABLE[3]], ids=lambda isa: isa.name)
def test_blocks_of_k_change_no_bit(isa):
    work = Linear(33, 96, 700, bias=True, activation="relu", residual=True)
    target = stand_in(isa)
    points = [point for point in template_of(work).space(target, work) if point.k_block]
    # Tiles of two rows end in one of a single row.
    lowest = next(point for point in points if point.rows == 2)
    for point in (lowest, Random(0).choice(points)):
        kernel, plain = (pick(work, target, each) for each in (point, replace(point, k_block=0)))
        weight = packed(random(700, 96), kernel.packed_shape)
        inputs = [random(33, 700), weight, random(96), random(33, 96, seed=1)]
        results = [call_here(compiled_here(each), inputs, (33, 96)) for each in (kernel, plain)]
        np.testing.assert_array_equal(*results)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, high) for high in (3, 40, 70, 40)]),
    known=st.booleans(),
    transpose_b=st.booleans(),
    isa=ISA,
    place=PLACE,
)
def test_batch_products_of_any_point(sizes, known, transpose_b, isa, place):
    batch, m, n, k = sizes
    work = BatchMatmul(*(sizes if known else [None] * 4), transpose_b)
    a, b = random(batch, m, k), random(batch, k, n, seed=1)
    given_b = np.ascontiguousarray(b.transpose(0, 2, 1)) if transpose_b else b
    kernel = pick(work, stand_in(isa), point_of(work, isa, place))
    (result,) = call_here(compiled_here(kernel), [a, given_b], (batch, m, n))
    assert_agrees(result, a.astype("float64") @ b)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(m=st.integers(1, 20), n=st.integers(1, 100), k=st.integers(1, 40), isa=ISA, place=PLACE)
def test_quantized_layers_of_any_point(m, n, k, isa, place):
    work = QuantizedLinear(m, n, k)
    kernel = pick(work, stand_in(isa), point_of(work, isa, place))
    x, weight = integers(m, k), integers(k, n, seed=1)
    scales, x_scale = np.abs(random(n)) / 100, np.float32([0.05])
    sums = weight.sum(0, dtype="int32")
    inputs = [x, packed(weight, kernel.packed_shape), scales, sums, x_scale]
    (result,) = call_here(compiled_here(kernel), inputs, (m, n))
    assert_agrees(result, x.astype("float64") @ weight * scales * x_scale)


def integers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(-127, 128, shape, "int8")


def test_float16_has_no_points_where_there_are_no_products_of_it():
    with pytest.raises(LookupError, match="no products of float16"):
        list(DotGemm.space(stand_in(TABLE[0]), Linear(8, 96, 64, dtype="float16")))


def of_weights(n, m):
    """Workloads of `n` columns that read weights of every kind in an order of their own."""
    return [Linear(m, n, 8), Linear(m, n, 8, dtype="bfloat16"),
            WeightOnlyLinear(m, n, 8, 8), WeightOnlyLinear(m, n, 8, 4, 8)]


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_kernels_that_share_a_weight_can_all_lie_alike(target):
    """A layout of one number of rows is one of every other, with the same weight."""
    for n in (50, 384):
        for works in zip(*(of_weights(n, m) for m in (1, 9, 128, None)), strict=True):
            first, *others = (
                {point.layout for point in template_of(work).space(target, work)}
                for work in works)
            assert all(each == first for each in others)


@pytest.mark.parametrize("n", [50, 96, 312, 384])
@pytest.mark.parametrize("kind", range(4), ids=["float32", "bfloat16", "8 bits", "4 bits"])
def test_the_levels_of_a_processor_family_can_all_lie_alike(kind, n):
    levels = targets.load("x86_64-linux").variants
    work = of_weights(n, 128)[kind]
    assert len({frozenset(point.layout for point in template_of(work).space(level, work))
                for level in levels}) == 1


@pytest.mark.parametrize("name", ["x86_64-linux", "arm64-android"])
def test_small_weights_lie_alike_for_all_levels_by_default(name):
    for n, m in itertools.product((2, 50, 312, 384), (1, 9, None)):
        for work in of_weights(n, m)[2:]:
            assert len({template_of(work).default(level, work).layout
                        for level in targets.load(name).variants}) == 1
