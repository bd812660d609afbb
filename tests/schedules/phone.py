"""Runs kernels on the emulated phone, compiled for the processor that it plays."""

from __future__ import annotations

import atexit
import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm

from pocketformer import targets
from pocketformer.compiler.device.address import Address
from pocketformer.compiler.link import Linker
from pocketformer.passes.offsets import with_offsets
from pocketformer.targets import Target
from tests.device.phones import TOKEN, running

MARGIN = 64     # numbers around every array: NaN around an input, a mark around an output
CPUS = ("cortex-a76", "max")    # the second one has i8mm and bf16

_names = (f"kernel{i}.so" for i in itertools.count())


def mark(dtype: str) -> float:
    """A number that no kernel writes to an output of `dtype` by chance."""
    return 1234.5 if np.dtype(dtype).kind == "f" else 77


def dtypes_of(dtype: str | Sequence[str], shapes: Sequence[Sequence[int]]) -> list[str]:
    """Of the outputs: `dtype` of each, or one for each as it says."""
    return [dtype] * len(shapes) if isinstance(dtype, str) else list(dtype)


def movable(func: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    """`func` with arguments that may begin anywhere in their memory, as those in an arena do."""
    return with_offsets(func, range(len(func.params)))


@cache
def target_of(cpu: str) -> Target:
    """What is compiled for the phone: a real core that `cpu` has all instructions of."""
    if cpu == "cortex-a76":
        return targets.load("raspberrypi5")
    newest = targets.load("snapdragon8gen3")    # cortex-x4; the emulated phone runs Linux
    return replace(newest, os="linux", android_api=None)


@cache
def address_of(cpu: str) -> Address:
    """Where the phone is that all these tests share; it runs until they end."""
    stack = ExitStack()
    atexit.register(stack.close)
    return Address.parse(stack.enter_context(running(cpu)).address)


@cache
def _session(cpu: str) -> tvm.rpc.RPCSession:
    """A connection of TVM's own client that lasts as long."""
    at = address_of(cpu)
    return tvm.rpc.connect(at.host, at.port, key=f"{at.key} -token={TOKEN}")


class Functions:
    """The functions of a compiled module, on the phone."""

    def __init__(self, executable: Any, cpu: str) -> None:
        self._remote = _session(cpu)
        name = next(_names)
        with TemporaryDirectory() as folder:
            library = Path(folder) / name
            executable.export_library(str(library), fcompile=Linker(target_of(cpu)))
            self._remote.upload(str(library))
        self._module = self._remote.load_module(name)

    def call(
        self, name: str, inputs: Sequence[np.ndarray], shapes: Sequence[Sequence[int]],
        dtype: str | Sequence[str] = "float32",
    ) -> list[np.ndarray]:
        """What `name`, a `movable` function, writes to outputs of these shapes and `dtypes_of`,
        and to nowhere else."""
        given = [self._framed(array, np.nan if array.dtype.kind == "f" else 1) for array in inputs]
        results = [self._framed(np.full(shape, mark(kind) + 1, kind), mark(kind))
                   for shape, kind in zip(shapes, dtypes_of(dtype, shapes), strict=True)]
        self._module[name](*(inner for inner, _ in given + results))
        return [_checked(frame.numpy(), shape)
                for (_, frame), shape in zip(results, shapes, strict=True)]

    def run_model(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """The one output of the Relax function `main`."""
        machine = tvm.relax.VirtualMachine(self._module, self._remote.cpu())
        given = [tvm.runtime.tensor(array, self._remote.cpu()) for array in inputs]
        result: np.ndarray = machine["main"](*given).numpy()
        return result

    def _framed(self, array: np.ndarray, around: float) -> tuple[Any, Any]:
        """`array` on the phone, at an offset in the memory that holds it, and that memory."""
        frame = np.full(2 * MARGIN + array.size, around, array.dtype)
        frame[MARGIN : MARGIN + array.size] = array.ravel()
        tensor = tvm.runtime.tensor(frame, self._remote.cpu())
        offset = MARGIN * array.dtype.itemsize
        return tensor._create_view(array.shape, str(array.dtype), offset), tensor


def _checked(frame: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    before, inner, after = np.split(frame, [MARGIN, len(frame) - MARGIN])
    around = np.concatenate([before, after])
    assert (around == mark(frame.dtype)).all(), "the kernel wrote past its output"
    return inner.reshape(shape)
