"""Jobs as bundles: every workload's kernels, called in turns, with weights that lie in no cache."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import tvm

from pocketformer import targets
from pocketformer.compiler import vm
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.local import empty_aligned
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.bundle_files import unpack
from pocketformer.compiler.tuning.inputs import SCALES, inputs_of
from pocketformer.compiler.tuning.job import SLACK, Job, cold_bytes
from pocketformer.compiler.tuning.kernel_bundle import build, kernel_bundle
from pocketformer.compiler.tuning.measure import measure
from pocketformer.compiler.tuning.weight_pool import WeightPool
from pocketformer.schedules.cpu import template_of
from pocketformer.schedules.workloads import (
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
from tests.tuning.jobs import HOST, job_of

HEADS = {"heads": 2, "kv_heads": 2, "head_size": 16, "value_size": 16, "scale": 0.25}
LINEAR = Linear(24, 96, 64, bias=True, activation="gelu")
WORKLOADS = {
    LINEAR: {},
    Linear(None, 96, 64, residual=True): {"m": 9},
    Linear(1, 96, 64): {},
    Linear(12, 96, 64, dtype="bfloat16"): {},
    QuantizedLinear(12, 96, 64, "uint8", per_row=True, zero=True): {},
    QuantizedLinear(12, 96, 64, out_dtype="int8"): {},
    QuantizedLinear(12, 96, 64, "float32", out_dtype="bfloat16"): {},
    Linear(12, 96, 64, dtype="bfloat16", x_dtype="bfloat16", out_dtype="int8"): {},
    WeightOnlyLinear(4, 96, 64, 4, 32): {},
    Attention(1, 24, 24, **HEADS, mask=(True, False, False)): {},
    Attention(1, 24, 24, **HEADS, mask=(False, False, False, True), mask_dtype="bool"): {},
    Attention(2, 24, 24, **HEADS, causal=True, packed=True, dtype="bfloat16"): {},
    Attention(None, 1, None, **HEADS): {"batch": 2, "kv_len": 20},
    Norm(12, 96, "layer", 1e-5, residual=True, keep_sum=True, bias=True): {},
    Norm(None, 96, "layer", 1e-5, residual=True, bias=True, store="rows"): {"rows": 12},
    Norm(12, 96, "rms", 1e-5, store="int8", keep=False): {},
    Norm(12, 96, "rms", 1e-5, store="bfloat16"): {},
    Lookup(12, 96, 500, 4, 32): {},
    Softmax(None, 40): {"rows": 7},
    BatchMatmul(2, 9, 17, 8): {},
    QuantizedMatmul(2, 9, 17, 8, out_dtype="int8"): {},
}


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_every_workload_is_built_and_timed(workload):
    job = job_of(workload, 2, sizes=WORKLOADS[workload])
    with Session(kernel_bundle(job), threads=1) as session:
        measured = measure(session, job, target_spread=1.0)
    assert len(measured.timings) == len(job.points)
    assert measured.timings[0].ratio == 1.0
    assert all(0.01 < timing.us < 1e6 for timing in measured.timings)


@pytest.mark.parametrize("workload", [
    Linear(256, 96, 64, bias=True),
    Linear(256, 96, 64, dtype="bfloat16"),
    QuantizedLinear(256, 96, 64, "uint8"),
], ids=str)
def test_kernels_compute_sensible_numbers(workload):
    job = job_of(workload, 1)
    bundle = kernel_bundle(job)
    with Session(bundle, threads=1) as session:
        inputs = inputs_of(job, session.inputs)
        # Large and aligned, it is written in place.
        out = inputs["out"] = empty_aligned((256, 96), np.dtype("float32"))
        out[:] = np.nan
        session.profile(inputs, 1)
    assert np.isfinite(out).all()
    assert len(np.unique(out)) > out.size / 10
    assert 0.01 < np.abs(out).max() < 1e3


def test_every_round_has_each_kernel_once_in_an_order_of_its_own():
    job = job_of(LINEAR, 4, cold_bytes=2 << 20)
    with Session(kernel_bundle(job), threads=1) as session:
        names = [kernel.function for kernel in session.bundle.manifest.kernels]
        (run,) = session.profile(inputs_of(job, session.inputs), 1)
    calls = [call.name for call in run if call.name in names]
    rounds = [tuple(calls[i : i + 4]) for i in range(0, len(calls), 4)]
    assert all(sorted(each) == sorted(names) for each in rounds)
    assert len(set(rounds)) > 1


@pytest.mark.parametrize(("call_us", "calls"), [(0.0, 256), (20_000.0, 24), (1e7, 4)])
def test_a_kernel_that_takes_long_is_called_less_often_in_a_run(call_us, calls):
    job = replace(job_of(Norm(12, 96, "layer", 1e-5), 2), call_us=call_us)
    with Session(kernel_bundle(job), threads=1) as session:
        names = [kernel.function for kernel in session.bundle.manifest.kernels]
        (run,) = session.profile(inputs_of(job, session.inputs), 1)
    assert sum(call.name in names for call in run) == calls


def test_runs_read_all_weights_in_the_same_order():
    job = job_of(LINEAR, 2, cold_bytes=200_000)
    bundle = kernel_bundle(job)
    machine = vm.open_library(bundle.library).machine()
    slots: list[int] = []

    def see(_function: object, name: str, before: bool, _result: object, *given: object) -> None:
        if before and name.startswith("t"):
            slots.append(np.from_dlpack(given[1]).ctypes.data)

    machine["set_instrument"](see)
    tensors = []
    for array in inputs_of(job, bundle.manifest.inputs).values():
        tensors.append(vm.to_tensor(empty_aligned(array.shape, array.dtype)))
    for _ in range(2):
        machine["main"](*tensors)
    first, second = slots[: len(slots) // 2], slots[len(slots) // 2 :]
    assert first == second
    between = first.index(first[0], 1) if first.count(first[0]) > 1 else len(first)
    assert (between - 1) * 96 * 64 * 4 >= 200_000


def test_the_same_code_is_there_once():
    point, other = job_of(LINEAR, 2).points
    twin = replace(point)
    bundle = kernel_bundle(Job(HOST, LINEAR, (), (point, other, twin), 0))
    first, second, third = (kernel.function for kernel in bundle.manifest.kernels)
    assert first == third != second


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "int32"])
def test_a_slot_is_filled_once_with_weights_of_its_dtype(dtype):
    pool = WeightPool.of(dtype, 100_000, 0)
    fill = tvm.compile(pool.fill().with_attr("global_symbol", "fill"), target=HOST.tvm())["fill"]
    memory = empty_aligned((pool.words,), np.dtype(pool.word))
    memory[:] = 0
    fill(tvm.runtime.from_dlpack(memory))
    kinds = {"bfloat16": ml_dtypes.bfloat16}
    weights = memory[:-1].view(kinds.get(dtype, dtype)).astype(np.float64)
    assert len(np.unique(weights)) > 100
    if dtype.startswith(("float", "bfloat")):
        assert ((np.abs(weights) >= 2**-7) & (np.abs(weights) < 2**-3)).all()
        assert abs((weights > 0).mean() - 0.5) < 0.1
    if dtype == "int8":
        assert weights.min() > -128
    memory[100] = 0
    fill(tvm.runtime.from_dlpack(memory))
    assert memory[100] == 0


def test_cold_bytes_of_other_weights_are_read_before_the_same_again():
    assert WeightPool.of("float32", 3000, 0).slots == 1
    pool = WeightPool.of("float32", 3000, 10_000)
    assert (pool.slots - 1) * 3000 >= 10_000
    assert pool.bytes > 3000


def test_a_phone_gets_a_bundle_for_its_system():
    target = targets.load("pixel8/cpu").variants[-1]
    workload = Linear(8, 96, 64)
    default = template_of(workload).default(target, workload)
    manifest = kernel_bundle(Job(target, workload, (), (default,), 0)).manifest
    assert (manifest.target.arch, manifest.target.os) == ("aarch64", "android")


def test_a_bundle_survives_the_way_as_bytes(tmp_path):
    job = job_of(Norm(4, 32, "rms", 1e-6), 2)
    bundle = unpack(build(job), tmp_path)
    bundle.verify()
    assert [kernel.workload for kernel in bundle.manifest.kernels] == [str(job.workload)] * 2


@pytest.mark.parametrize("data", [b"", b"no tar", bytes(10240)])
def test_bytes_without_a_bundle_are_refused(data, tmp_path):
    with pytest.raises(BadBundle, match="holds no bundle"):
        unpack(data, tmp_path)


def test_a_job_is_split_into_one_for_each_point():
    job = job_of(LINEAR, 4)
    first, *others = job.split()
    assert first.points == job.points[:1]
    assert [other.points for other in others] == [(job.points[0], p) for p in job.points[1:]]


def test_no_more_is_read_between_than_a_model_reads_or_caches_hold():
    target = replace(HOST, l3=32 << 20, cores=(replace(HOST.cores[0], l2=1 << 20),))
    assert cold_bytes(target, 10 << 20, threads=2) == 10 << 20
    assert cold_bytes(target, 1 << 30, threads=2) == 68 << 20
    assert cold_bytes(replace(target, l3=1 << 30), 1 << 30, threads=2) == SLACK


def test_scales_and_factors_have_magnitudes_of_their_own():
    workloads = [
        Attention(1, 24, 24, **HEADS, dtype="int8", in_dtype="int8", out_dtype="int8"),
        Norm(12, 96, "layer", 1e-5, store="int8"),
        QuantizedLinear(12, 96, 64, per_row=True, out_dtype="int8"),
        Lookup(12, 96, 500, 4, 32),
    ]
    found = set()
    for workload in workloads:
        specs = kernel_bundle(job_of(workload, 1)).manifest.inputs
        names = [spec.name.rstrip("0123456789_") for spec in specs if spec.dtype == "float32"]
        found |= {name for name in names if "scale" in name or "factor" in name}
    assert {"scales", "factor", "out_factor"} <= found <= set(SCALES)
