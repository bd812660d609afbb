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
# Up to so many bytes an input is copied: as fast as to find out whether it is aligned.
_SMALL_INPUT = 1 << 16
# Below half a page an output is copied: TVM's pool gives whole pages, and who keeps many results
# would keep mostly empty ones. Larger ones are handed out, which is up to 1.5 us faster.
_SMALL_OUTPUT = 1 << 11


@dataclass
class _Plan:
    """What is known about runs of one set of input shapes, after the first of them."""

    name: str
    function: Any
    copied: tuple[bool, ...] = ()       # the outputs whose memory is not theirs alone


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
        self._outputs = [(spec.name, vm.reader(np.dtype(spec.dtype)))
                         for spec in bundle.manifest.outputs]
        self._plans: dict[Shapes, _Plan] = {}
        # Of the latest run, with memory for its inputs.
        self._shapes: Shapes | None = None
        self._latest: _Plan
        self._buffers: list[tuple[np.ndarray, Any]]

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
        copied = plan.copied or self._find_copied(plan, values, arrays)
        item, results = self._tvm.item, {}
        for i, (name, read) in enumerate(self._outputs):
            result = read(item(values, i))
            results[name] = result.copy() if copied[i] else result
        return results

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
        """The plan, and tensors of the inputs: their own memory where large and aligned."""
        shapes = tuple([array.shape for array in arrays])
        if shapes != self._shapes:
            plan, buffers = self._plans.get(shapes) or self._plan(shapes), map(_buffer, arrays)
            self._latest, self._buffers, self._shapes = plan, list(buffers), shapes
        tensors = []
        for i, array in enumerate(arrays):
            if array.nbytes > _SMALL_INPUT and _is_ready(array):
                tensors.append(vm.to_tensor(array))
                continue
            buffer, tensor = self._buffers[i]
            buffer[...] = array
            tensors.append(tensor)
        return self._latest, tensors

    def _plan(self, shapes: Shapes) -> _Plan:
        entry = self._signature.entry(self._signature.sizes(shapes))
        if len(self._plans) >= max(_SIZES_KEPT, len(self._signature.entries)):
            self._plans.clear()
            self._tvm.free_pools()
        plan = self._plans[shapes] = _Plan(entry.function, self._functions[entry.function])
        return plan

    def _find_copied(
        self, plan: _Plan, values: Any, arrays: list[np.ndarray]
    ) -> tuple[bool, ...]:
        """Which results are small, or may be memory of another one, of a weight or the next run."""
        held = [*arrays, *(buffer for buffer, _ in self._buffers), *self._weights.values()]
        constants = not self._weights       # inside the library, where they cannot be recognised
        copied = []
        for value, (_, read) in zip(values, self._outputs, strict=True):
            result = read(value)
            copied.append(
                constants
                or result.nbytes < _SMALL_OUTPUT
                or not result.flags.writeable
                or any(np.may_share_memory(result, array) for array in held)
            )
            held.append(result)     # another output may be a view of it
        plan.copied = tuple(copied)
        return plan.copied


def _buffer(array: np.ndarray) -> tuple[np.ndarray, Any]:
    """Memory for an input like `array`, not touched before there is one, and its tensor."""
    buffer = empty_aligned(array.shape, array.dtype)
    return buffer, vm.to_tensor(buffer)


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
