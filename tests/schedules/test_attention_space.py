"""Points of attention, norms and softmax; what all spaces have in common is in test_spaces.py."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.runtime import tensor

from pocketformer import targets
from pocketformer.schedules.cpu import template_of
from pocketformer.schedules.cpu.attention_space import blocks
from pocketformer.schedules.cpu.intrinsics import TABLE
from pocketformer.schedules.workloads import MOST_PRODUCTS, Attention, Norm, Softmax
from tests.schedules.running import (
    INSTRUCTIONS,
    assert_agrees,
    call_here,
    compiled_here,
    random,
    stand_in,
)
from tests.schedules.test_attention import LOWEST, attention
from tests.schedules.test_rows import norm, softmax

ISAS = [isa.name for isa in TABLE]
TARGETS = {isa.name: stand_in(isa) for isa in TABLE}
TARGETS |= {name: stand_in(dot) for name, dot in INSTRUCTIONS.items() if (
    dot.dtype == "bfloat16" or (dot.dtype == "int8" and not dot.matrix))}
WORKLOADS = [
    Attention(1, 512, 512, 12, 12, 64, 64, 0.1, dtype="bfloat16"),
    Attention(None, None, None, 12, 4, 64, 80, 0.1, causal=True, dtype="bfloat16"),
    Attention(1, 1, None, 8, 2, 64, 64, 0.1),
    Attention(None, None, None, 12, 12, 32, 32, 1.0, packed=True, dtype="int8", in_dtype="int8",
              out_dtype="int8"),
    Attention(1, 9, 5, 2, 2, 5, 7, 0.1, (True, True, True), "bool"),
]


def space(workload, target):
    return list(template_of(workload).space(target, workload))


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_a_space_begins_with_the_default_and_names_every_point_once(workload):
    for target in TARGETS.values():
        points = space(workload, target)
        assert points[0] == template_of(workload).default(target, workload)
        assert len({point.name for point in points}) == len(set(points)) == len(points)


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_points_build_for_every_instruction(workload):
    for target in TARGETS.values():
        points = space(workload, target)
        for point in Random(0).sample(points, min(len(points), 5)):
            assert point.kernel(workload, target).func.attrs["global_symbol"] == point.name


@pytest.mark.parametrize("length", [None, 100_000])
def test_blocks_of_integers_are_no_longer_than_their_sums_may_be(length):
    work = Attention(1, length, length, 1, 1, 32, 32, 1.0, dtype="int8", in_dtype="int8")
    host = targets.load("host")
    large = replace(host, cores=(replace(host.cores[0], l2=1 << 24),))
    assert max(blocks(large, work, 8, 4)) <= MOST_PRODUCTS
    others = replace(work, dtype="float32", in_dtype="float32")
    assert max(blocks(large, others, 8, 4)) > MOST_PRODUCTS


def test_no_two_points_have_the_same_code():
    target = TARGETS["avx512"]
    workload = Attention(1, 128, 128, 12, 12, 32, 32, 0.2)
    seen = set()
    for point in space(workload, target)[::4]:
        text = point.kernel(workload, target).func.script().replace(point.name, "kernel")
        assert text not in seen, point
        seen.add(text)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data(), isa=st.sampled_from(ISAS), symbolic=st.booleans(), causal=st.booleans())
def test_a_random_point_of_attention_agrees(data, isa, symbolic, causal):
    q_len, kv_len = sorted(data.draw(st.tuples(st.integers(1, 50), st.integers(1, 300))))
    size = data.draw(st.sampled_from([5, 16, 64]))
    known = (None, None, None) if symbolic else (2, q_len, kv_len)
    workload = Attention(*known, 4, 2, size, size, 0.3, (True, False, True), "float32", causal)
    points = space(workload, TARGETS[isa])
    kernel = data.draw(st.sampled_from(points)).kernel(workload, TARGETS[isa])
    q, k, v = (random(2, length, heads, size, seed=i) for i, (length, heads) in enumerate(
        [(q_len, 4), (kv_len, 2), (kv_len, 2)]))
    mask = np.where(random(2, 1, q_len, kv_len) > -0.5, np.float32(0), LOWEST)
    (result,) = call_here(compiled_here(kernel), [q, k, v, mask], q.shape)
    assert_agrees(result, attention(q, k, v, 0.3, mask, causal))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data(), isa=st.sampled_from(ISAS), rows=st.integers(1, 9), size=st.integers(2, 400),
       symbolic=st.booleans(), kind=st.sampled_from(["layer", "rms"]))
def test_a_random_point_of_a_norm_agrees(data, isa, rows, size, symbolic, kind):
    workload = Norm(None if symbolic else rows, size, kind, 1e-5, residual=True, bias=True)
    kernel = data.draw(st.sampled_from(space(workload, TARGETS[isa]))).kernel(
        workload, TARGETS[isa])
    x, residual, weight, bias = random(rows, size), random(rows, size, seed=1), *random(2, size)
    expected = norm(x + residual, weight, bias, kind)
    (result,) = call_here(compiled_here(kernel), [x, residual, weight, bias], (rows, size))
    assert_agrees(result, expected)


@pytest.mark.parametrize("rows", [8, 9], ids=["whole", "rest"])
def test_the_result_of_a_norm_may_take_the_place_of_its_residual(rows):
    target = targets.load("host")
    workload = Norm(None, 83, "layer", 1e-5, residual=True)
    x, residual, weight = random(rows, 83), random(rows, 83, seed=1), random(83)
    expected = norm(x + residual, weight, 0.0, "layer")
    for point in space(workload, target)[::4]:
        place = tensor(residual)
        compiled_here(point.kernel(workload, target))(tensor(x), place, tensor(weight), place)
        assert_agrees(place.numpy(), expected)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data(), isa=st.sampled_from(ISAS), rows=st.integers(1, 9), size=st.integers(1, 400),
       symbolic=st.booleans())
def test_a_random_point_of_softmax_agrees(data, isa, rows, size, symbolic):
    workload = Softmax(None, None) if symbolic else Softmax(rows, size)
    kernel = data.draw(st.sampled_from(space(workload, TARGETS[isa]))).kernel(
        workload, TARGETS[isa])
    x = random(rows, size) * 10
    (result,) = call_here(compiled_here(kernel), [x], (rows, size))
    assert_agrees(result, softmax(x))
