"""Session: run a bundle on this machine, by the names of its inputs and outputs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pocketformer.compiler import vm
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.compatibility import refuse_machine
from pocketformer.compiler.errors import BadBundle, BadInput
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.model import TensorSpec
from pocketformer.compiler.signature import Shapes, Signature, check_outputs
from pocketformer.compiler.weights import ALIGNMENT

# Every size of a symbolic bundle leaves buffers of its own in TVM's pool, which never shrinks by
# itself: 512 lengths would take gigabytes. After so many sizes the unused ones are let go.
_SIZES_KEPT = 8
# Below this many bytes an output is copied: as fast as not to, and then nobody else has it.
_SMALL = 1 << 16


@dataclass
class _Plan:
    """What is known about runs of one set of input shapes, after the first of them."""

    function: Any
    copied: tuple[bool, ...] | None = None      # the outputs whose memory is not theirs alone


class Session:
    """A loaded bundle, ready to run.

    `bundle` is a Bundle or the path of one. `threads` is how many threads the kernels use; None
    takes TVM_NUM_THREADS, else what the bundle's target prefers. It is at most the number of CPUs
    that the process may use. Each session keeps its own count: TVM's pool of the calling thread is
    set to it before a run. Runs of one session wait for one another; those of two sessions in two
    threads do not.

    Raises BadBundle for a bundle that this machine cannot run.
    """

    def __init__(self, bundle: Bundle | str | os.PathLike[str], threads: int | None = None) -> None:
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle)
        refuse_machine(bundle.manifest)
        if threads is not None and (type(threads) is not int or threads < 1):
            raise BadInput(f"threads is {threads!r}, it must be a whole number from 1 on")
        self.bundle = bundle
        self._signature = Signature(bundle.manifest)
        wanted = threads or vm.default_threads(bundle.manifest.target.threads)
        self.threads = max(1, min(wanted, len(cpus())))
        self._tvm = vm.runtime()
        self._library = vm.open_library(bundle.library)
        self._weights = {name: _aligned(array) for name, array in bundle.weights.items()}
        self._functions = self._bind(bundle.manifest)
        self._outputs = [(spec.name, np.dtype(spec.dtype)) for spec in bundle.manifest.outputs]
        self._plans: dict[Shapes, _Plan] = {}
        self._buffers: dict[int, tuple[np.ndarray, Any]] = {}
        self._lock = threading.Lock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each input."""
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each output."""
        return self._signature.outputs

    def _bind(self, manifest: Manifest) -> dict[str, Any]:
        """The library's functions with the weights already given to them, by name."""
        machine = self._library.machine()
        tensors = {name: vm.to_tensor(array) for name, array in self._weights.items()}
        functions = {}
        for entry in manifest.entries:
            bound = f"{entry.function}.bound"
            try:
                machine["save_function"](
                    entry.function, bound, 1, *(tensors[name] for name in entry.weights)
                )
            except ValueError:
                file = self.bundle.library
                raise BadBundle(f"{file} has no function {entry.function!r}") from None
            functions[entry.function] = machine[bound]
        return functions

    def run(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Mapping[str, np.ndarray] | Iterable[str] | None = None,
        **named: Any,
    ) -> dict[str, np.ndarray]:
        """The outputs by name, for inputs by name, or in a dict where a name is no identifier.

        An input is a numpy array, or any CPU tensor with DLPack, of exactly the dtype and shape
        that `inputs` tells. `outputs` chooses some outputs by name; where it is a dict of arrays,
        the results are written to these and they are returned. Arrays that are returned otherwise
        are the caller's: later runs leave them alone.

        Raises BadInput for an input or output array that does not fit; nothing was written then.
        """
        given = {**inputs, **named} if inputs else named
        arrays = self._signature.arrays(given)
        names = self._signature.output_names(outputs)
        with self._lock:
            results = self._run(arrays)
            if not isinstance(outputs, Mapping):
                return results if outputs is None else {name: results[name] for name in names}
            check_outputs(outputs, results)
            for name in names:
                np.copyto(outputs[name], results[name])
            return {name: outputs[name] for name in names}

    def _run(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        shapes = tuple([array.shape for array in arrays])
        plan = self._plans.get(shapes) or self._plan(shapes)
        tensors = [self._input(i, array) for i, array in enumerate(arrays)]
        self._tvm.use_threads(self.threads)
        values = plan.function(*tensors)
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

    def _plan(self, shapes: Shapes) -> _Plan:
        entry = self._signature.entry(self._signature.sizes(shapes))
        if len(self._plans) >= max(_SIZES_KEPT, len(self.bundle.manifest.entries)):
            self._plans.clear()
            self._tvm.free_pools()
        plan = self._plans[shapes] = _Plan(self._functions[entry.function])
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
