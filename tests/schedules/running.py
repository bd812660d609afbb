"""Runs kernels here and on the emulated phone.

Every instruction set's code is vector code that LLVM can compile for this machine too, so all are
checked here, with arguments at an offset in memory and a margin around each. Arm's are then
compiled for a real core and run on the emulated phone: "neon" runs here, "neon@cortex-a76" there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm

from pocketformer import targets
from pocketformer.schedules.cpu import Kernel, pick
from pocketformer.schedules.cpu.dot import Dot
from pocketformer.schedules.cpu.dot_gemm import DotGemm
from pocketformer.schedules.cpu.dot_table import DOTS
from pocketformer.schedules.cpu.intrinsics import TABLE, Isa
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target
from tests.numerics.tolerance import TOLERANCE
from tests.schedules import phone
from tests.schedules.phone import MARGIN, dtypes_of, mark, movable

# Instructions for which LLVM has code on their own machines alone.
INSTRUCTIONS = {dot.name: dot for dot in DOTS if dot.llvm or dot.dtype == "float16"}


def stand_in(isa: Isa | Dot) -> Target:
    """A target that gets the kernels of `isa`; never compiled for."""
    return replace(targets.load("host"), arch=isa.arch, isa=isa.needs)


@cache
def kernel_of(workload: Workload, isa: str) -> Kernel:
    name, _, cpu = isa.partition("@")
    if name in INSTRUCTIONS:
        dot = INSTRUCTIONS[name]
        if not DotGemm.matches(workload):
            return pick(workload, stand_in(dot))
        point = DotGemm.best(dot, workload)
        return point.kernel(workload, phone.target_of(cpu) if cpu else targets.load("host"))
    row = next(row for row in TABLE if row.name == name)
    if cpu:
        return pick(workload, replace(phone.target_of(cpu), isa=row.needs))
    return pick(workload, stand_in(row))


def kernels(workload: Workload, *only: str) -> list[Any]:
    """Test parameters: every instruction set (or some), under the name of its kernel; a 64-bit
    Arm kernel twice, the second time on the first emulated phone that has its instructions."""
    rows = [isa for isa in TABLE if not only or isa.name in only]
    params = [pytest.param(isa.name, id=kernel_of(workload, isa.name).name) for isa in rows]
    return params + [_on_phone(workload, isa) for isa in rows if isa.arch == "aarch64"]


def instructions(workload: Workload, dtype: str) -> list[Any]:
    """Test parameters: every instruction for products of `dtype`, on a machine that has it."""
    has = targets.load("host")
    params = []
    for dot in INSTRUCTIONS.values():
        if dot.dtype != dtype:
            continue
        if dot.arch == "aarch64":
            params.append(_on_phone(workload, dot))
            continue
        lacking = pytest.mark.skipif(
            dot.arch != has.arch or not dot.needs <= has.isa, reason=f"no {dot.name} here")
        name = kernel_of(workload, dot.name).name
        params.append(pytest.param(dot.name, id=name, marks=lacking))
    return params


def _on_phone(workload: Workload, isa: Isa | Dot) -> Any:
    cpu = next(cpu for cpu in phone.CPUS if isa.needs <= phone.target_of(cpu).isa)
    where = f"{isa.name}@{cpu}"
    return pytest.param(where, id=f"{kernel_of(workload, where).name}@{cpu}")


@cache
def compiled(workload: Workload, isa: str) -> Any:
    return compiled_here(kernel_of(workload, isa))


def compiled_here(kernel: Kernel) -> Any:
    """The kernel as a function of this machine, `movable`."""
    func = movable(kernel.func).with_attr("global_symbol", "kernel")
    return tvm.compile(func, target=targets.load("host").tvm())["kernel"]


@cache
def on_phone(workload: Workload, isa: str, cpu: str) -> phone.Functions:
    func = movable(kernel_of(workload, isa).func).with_attr("global_symbol", "kernel")
    return phone.Functions(tvm.compile(func, target=phone.target_of(cpu).tvm()), cpu)


def call(
    workload: Workload, isa: str, inputs: Sequence[np.ndarray], *shapes: Sequence[int],
    dtype: str | Sequence[str] = "float32",
) -> list[np.ndarray]:
    """The kernel's outputs, of these shapes; it must not touch what lies around them.

    `dtype` is that of all outputs, or has one for each.
    """
    if cpu := isa.partition("@")[2]:
        return on_phone(workload, isa, cpu).call("kernel", inputs, shapes, dtype)
    return call_here(compiled(workload, isa), inputs, *shapes, dtype=dtype)


def call_here(
    function: Any, inputs: Sequence[np.ndarray], *shapes: Sequence[int],
    dtype: str | Sequence[str] = "float32",
) -> list[np.ndarray]:
    """As `call`, of a function that `compiled_here` gave."""
    given = [framed(array, np.nan) for array in inputs]
    results = [framed(np.full(shape, np.nan if np.dtype(kind).kind == "f" else 0, kind), mark(kind))
               for shape, kind in zip(shapes, dtypes_of(dtype, shapes), strict=True)]
    function(*(_placed(array, frame) for array, frame in given + results))
    for array, frame in results:
        around = np.concatenate([frame[:MARGIN], frame[MARGIN + array.size :]])
        assert (around == mark(array.dtype)).all(), "the kernel wrote past its output"
    return [array for array, _ in results]


def _placed(array: np.ndarray, frame: np.ndarray) -> Any:
    """`array` as a tensor that begins at an offset in `frame`."""
    # numpy cannot hand out bfloat16, but the same memory as bytes.
    memory = tvm.runtime.from_dlpack(frame.view("uint8"))
    return memory._create_view(array.shape, str(array.dtype), MARGIN * array.dtype.itemsize)


def framed(array: np.ndarray, around: float) -> tuple[np.ndarray, np.ndarray]:
    """A copy of `array` that begins at a multiple of 64 bytes, and the memory that holds it."""
    dtype = array.dtype
    numbers = 2 * MARGIN + array.size
    raw = np.zeros(numbers * dtype.itemsize + 64, np.uint8)
    frame = raw[-raw.ctypes.data % 64 :][: numbers * dtype.itemsize].view(dtype)
    frame[:] = around if np.isfinite(around) or dtype.kind == "f" else True
    inner = frame[MARGIN : MARGIN + array.size].reshape(array.shape)
    inner[...] = array
    return inner, frame


def assert_agrees(
    result: np.ndarray, expected: np.ndarray, tolerance: str = "float32 kernel"
) -> None:
    """The kernels' tolerance, relative to the largest expected number, which must not be 0."""
    scale = np.abs(expected[np.isfinite(expected)]).max()
    assert scale > 0
    np.testing.assert_allclose(result / scale, expected / scale, rtol=0,
                               atol=TOLERANCE[tolerance])


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype("float32")


def packed(weight: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """`weight` [k, n] as [panel, k, column] or [panel, k / group, column, k of the group].

    Zeros after the last column and the last k; numpy's way.
    """
    panels, groups, columns, group = (*shape, 1)[:4]
    wide = np.zeros((groups * group, panels * columns), weight.dtype)
    wide[: weight.shape[0], : weight.shape[1]] = weight
    split = wide.reshape(groups, group, panels, columns).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(split.reshape(shape))
