"""A bundle loaded into this process, behind a Session."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketformer.compiler import vm
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.compatibility import choose_level
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.signature import Shapes, Signature
from pocketformer.compiler.weights import ALIGNMENT

if TYPE_CHECKING:
    from pocketformer.compiler.instrument import Instrument, TimedCall

# Every size of a symbolic bundle leaves buffers of its own in TVM's pool, which never shrinks by
# itself: 512 lengths would take gigabytes. After so many sizes the unused ones are let go.
_SIZES_KEPT = 8
# Below this many bytes an output is copied: as fast as not to, and then nobody else has it.
_SMALL = 1 << 16


@dataclass
class _Plan:
    """What is known about runs of one set of input shapes, after the first of them."""

    name: str
    function: Any
    copied: tuple[bool, ...] | None = None      # the outputs whose memory is not theirs alone


class LocalSession:
    """The bundle in this process. Arrays are those of its signature, in its order.

    Not thread-safe: one thread at a time.
    """

    info = None         # of a device, where there is one

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.bundle, self.level = bundle, choose_level(bundle.manifest)
        self._signature = Signature(bundle.manifest, self.level)
        wanted = threads or vm.default_threads(bundle.manifest.target.threads)
        self.threads = max(1, min(wanted, len(cpus())))
        self.last_ms: float | None = None
        self._tvm = vm.runtime()
        self._library = vm.open_library(bundle.library)
        self._weights = {name: _aligned(array) for name, array in bundle.weights.items()}
        self._functions = self._bind(self._library.machine())
        self._timed: tuple[Instrument, dict[str, Any]] | None = None
        self._outputs = [(spec.name, np.dtype(spec.dtype)) for spec in bundle.manifest.outputs]
        self._plans: dict[Shapes, _Plan] = {}
        self._buffers: dict[int, tuple[np.ndarray, Any]] = {}

    def _bind(self, machine: Any) -> dict[str, Any]:
        """The machine's functions with the weights already given to them, by name."""
        tensors = {name: vm.to_tensor(array) for name, array in self._weights.items()}
        functions = {}
        for entry in self._signature.entries:
            bound = f"{entry.function}.bound"
            try:
                machine["save_function"](
                    entry.function, bound, 1, *(tensors[name] for name in entry.weights)
                )
            except ValueError:
                file = self.bundle.library
                raise BadBundle(f"{file} has no function {entry.function!r}") from None
            functions[entry.function] = self._library.on_threads(self.threads, machine[bound])
        return functions

    def run(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name; `last_ms` then tells how long the kernels took."""
        plan, tensors = self._prepare(arrays)
        start = time.perf_counter_ns()
        values = plan.function(*tensors)
        self.last_ms = (time.perf_counter_ns() - start) / 1e6
        results = [
            vm.to_numpy(value, dtype)
            for value, (_, dtype) in zip(values, self._outputs, strict=True)
        ]
        if plan.copied is None:
            plan.copied = self._find_shared(results, arrays)
        return {
            name: result.copy() if copied or not result.flags.writeable else result
            for (name, _), result, copied in zip(self._outputs, results, plan.copied, strict=True)
        }

    def time(self, arrays: list[np.ndarray], warmup: int, runs: int) -> list[float]:
        """The milliseconds that the kernels took in each of `runs` runs after `warmup` others."""
        plan, tensors = self._prepare(arrays)
        times = []
        for _ in range(warmup + runs):
            start = time.perf_counter_ns()
            plan.function(*tensors)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return times[warmup:]

    def profile(self, arrays: list[np.ndarray], runs: int) -> list[list[TimedCall]]:
        """For each of `runs` runs, every call of the virtual machine in order."""
        if self._timed is None:
            from pocketformer.compiler.instrument import Instrument

            machine = self._library.machine()       # of its own: an instrument cannot be taken off
            self._timed = Instrument(machine), self._bind(machine)
        instrument, functions = self._timed
        plan, tensors = self._prepare(arrays)
        seen = []
        for _ in range(runs):
            with instrument.recording() as calls:
                functions[plan.name](*tensors)
            seen.append(calls)
        return seen

    def close(self) -> None:
        """Nothing is left to do: its memory goes with its last reference."""

    def _prepare(self, arrays: list[np.ndarray]) -> tuple[_Plan, list[Any]]:
        shapes = tuple([array.shape for array in arrays])
        plan = self._plans.get(shapes) or self._plan(shapes)
        tensors = [self._input(i, array) for i, array in enumerate(arrays)]
        return plan, tensors

    def _plan(self, shapes: Shapes) -> _Plan:
        entry = self._signature.entry(self._signature.sizes(shapes))
        if len(self._plans) >= max(_SIZES_KEPT, len(self._signature.entries)):
            self._plans.clear()
            self._tvm.free_pools()
        plan = self._plans[shapes] = _Plan(entry.function, self._functions[entry.function])
        return plan

    def _input(self, i: int, array: np.ndarray) -> Any:
        """A tensor of `array`'s values: its own memory if aligned, else the session's copy."""
        if array.nbytes > _SMALL and _is_ready(array):
            return vm.to_tensor(array)
        buffer, tensor = self._buffers.get(i, (None, None))
        if buffer is None or buffer.shape != array.shape:
            buffer = empty_aligned(array.shape, array.dtype)
            tensor = vm.to_tensor(buffer)
            self._buffers[i] = buffer, tensor
        np.copyto(buffer, array)
        return tensor

    def _find_shared(self, results: list[np.ndarray], arrays: list[np.ndarray]) -> tuple[bool, ...]:
        """Which results are small, or may be memory that the next run or a weight needs."""
        held = [*arrays, *(buffer for buffer, _ in self._buffers.values()), *self._weights.values()]
        constants = not self._weights       # inside the library, where they cannot be recognised
        return tuple(
            constants
            or result.nbytes <= _SMALL
            or any(np.may_share_memory(result, array) for array in held)
            for result in results
        )


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An uninitialised array whose memory begins on a multiple of 64 bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _is_ready(array: np.ndarray) -> bool:
    """Whether kernels may read it in place: TVM does not check, and vector loads would crash."""
    flags = array.flags
    return bool(flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0)


def _aligned(array: np.ndarray) -> np.ndarray:
    if _is_ready(array):
        return array
    copy = empty_aligned(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy
