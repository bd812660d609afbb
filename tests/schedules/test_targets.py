"""Every template compiles for phones and other machines, and its inner loop stays in registers."""

import re

import pytest
import tvm

from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.gemm import Gemm
from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.schedules.workloads import Attention, BatchMatmul, Linear, Norm, Softmax
from tests.schedules.assembly import innermost_loops

WORKLOADS = [
    Linear(128, 384, 384, bias=True, activation="gelu"),
    Linear(None, 312, 312, bias=True, residual=True),
    Linear(1, 384, 384),
    Attention(1, 128, 128, 12, 12, 32, 32, 0.2, (True, False, False)),
    Attention(None, None, None, 12, 4, 64, 64, 0.2, causal=True),
    Norm(None, 384, "layer", 1e-5, residual=True, bias=True),
    Softmax(None, None),
    BatchMatmul(12, 128, 128, 64),
]
TARGETS = ["x86_64-linux", "arm64-android", "armv7-android", "raspberrypi4", "pixel8"]


def assembly(workload, target):
    func = pick(workload, target).func.with_attr("global_symbol", "kernel")
    return tvm.compile(func, target=target.tvm()).mod.inspect_source("asm")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_compiles_without_calls_of_libm(workload, target):
    code = assembly(workload, targets.load(target))
    assert not re.search(r"\b(expf|exp2f|erff|tanhf|nearbyintf|roundf)\b", code)


# Where the rows are symbolic, LLVM counts Arm's loop by the weights' address, which keeps it from
# loading them in pairs: 116 instructions for 96 multiply-adds, not 110.
@pytest.mark.parametrize(("target", "multiply_add", "known", "symbolic"), [
    ("raspberrypi5", "fmla", 1.15, 1.21),
    ("pixel8", "fmla", 1.15, 1.21),
    ("x86_64-linux", "vfmadd", 2.0, 2.0),
])
@pytest.mark.parametrize("m", [128, None], ids=["known", "symbolic"])
@pytest.mark.parametrize("activation", ["", "gelu"])
def test_the_inner_loop_has_few_instructions_beside_multiply_add(
    target, multiply_add, known, symbolic, m, activation
):
    workload, target = Linear(m, 384, 384, bias=True, activation=activation), targets.load(target)
    point = Gemm.default(target, workload)
    tile = point.rows * point.columns // isa_of(target).lanes
    counted = [(sum(line.startswith(multiply_add) for line in lines), lines)
               for lines in innermost_loops(assembly(workload, target))]
    full = [(count, lines) for count, lines in counted if count and count % tile == 0]
    assert full
    count, lines = min(full, key=lambda found: len(found[1]) / found[0])
    assert len(lines) / count <= (known if m else symbolic)
    assert not any("[sp" in line or "(%rsp" in line for line in lines), "a register is spilled"
