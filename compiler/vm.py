"""TVM's runtime and virtual machine without its compiler: imports in 50 ms, not in seconds."""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from pocketformer.compiler.errors import BadBundle, MissingPackage

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = 1                     # kDLCPU
POOLED = 2                  # the VM's allocator that keeps what it frees
_lock = threading.Lock()


class Runtime:
    """The few functions of TVM's runtime that a session calls."""

    def __init__(self) -> None:
        with _without_torch():
            try:
                import tvm_ffi
            except ImportError:
                raise MissingPackage("running a bundle needs apache-tvm: pip install "
                                     "apache-tvm apache-tvm-ffi") from None
        spec = find_spec("tvm")
        if spec is None or not spec.submodule_search_locations:
            raise MissingPackage("running a bundle needs apache-tvm: pip install apache-tvm")
        folder = Path(spec.submodule_search_locations[0]) / "lib"
        load = tvm_ffi.libinfo.load_lib_ctypes
        # The modes in which TVM itself loads them, so that its import afterwards finds them there.
        self._runtime: ctypes.CDLL = load("tvm", "tvm_runtime", "RTLD_GLOBAL", [folder])
        self._extra: ctypes.CDLL = load("tvm", "tvm_runtime_extra", "RTLD_LOCAL", [folder])
        self.load_module: Callable[..., Any] = tvm_ffi.load_module
        self.from_dlpack: Callable[[Any], Any] = tvm_ffi.from_dlpack
        self.item: Callable[[Any, int], Any] = tvm_ffi.get_global_func("ffi.ArrayGetItem")
        self.shape: Callable[[Sequence[int]], Any] = tvm_ffi.Shape
        self.dtype: Callable[[str], Any] = tvm_ffi.dtype
        self.rpc_connect: Callable[..., Any] = tvm_ffi.get_global_func("rpc.Connect")
        self.view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
        self.free_pools = tvm_ffi.get_global_func("vm.builtin.memory_manager.clear")


class Library:
    """A loaded `.so`. A file is loaded once in a process: its kernels keep a link to its module."""

    def __init__(self, path: Path) -> None:
        try:
            # glibc compares paths before it looks at files, and gives back the old library where a
            # new one took its place: every file comes by a path of its own.
            fresh = os.path.join(path.parent, "./" * (next(_loads) % 200) + path.name)
            self.module = runtime().load_module(fresh, keep_module_alive=False)
        except Exception as error:    # of a class that depends on the fault
            raise BadBundle(f"TVM cannot load {path}: {_first_line(error)}") from error

        try:
            self._run = self.module.get_function("pocketformer_run", query_imports=True)
        except AttributeError:
            raise BadBundle(
                f"{path} was linked without pocketformer's threads; compile the model again"
            ) from None

    def on_threads(self, count: int, function: Any) -> Callable[..., Any]:
        """`function` of a machine, whose kernels `count` threads share.

        The threads belong to the library: as many for every call that is under way at the same
        time. They are started when there is work for them and sleep between the calls; TVM's own
        keep looking for work for a while, and split loops evenly, so that one busy core stalls all.
        """
        return partial(self._run, count, function)

    def machine(self) -> Any:
        """A new virtual machine of the library's functions."""
        machine = self.module["vm_load_executable"]()
        machine["vm_initialization"](CPU, 0, POOLED)
        return machine


_loads = itertools.count()
_libraries: WeakValueDictionary[tuple[int, int, int], Library] = WeakValueDictionary()
_runtime: list[Runtime] = []


def runtime() -> Runtime:
    """The process's runtime, imported when it is first asked for. Raises MissingPackage."""
    with _lock:
        if not _runtime:
            _runtime.append(Runtime())
        return _runtime[0]


def open_library(path: Path) -> Library:
    """The library at `path`; every caller in the process shares it. Raises BadBundle."""
    status = path.stat()
    key = status.st_dev, status.st_ino, status.st_mtime_ns
    loaded = _libraries.get(key) or Library(path)
    return _libraries.setdefault(key, loaded)


def to_tensor(array: np.ndarray) -> Any:
    """`array`, which is contiguous, as TVM's tensor of the same memory."""
    tvm = runtime()
    if array.dtype.kind != "V":
        return tvm.from_dlpack(array)
    # DLPack knows bfloat16 and float8, numpy's DLPack does not: hand over bytes, then rename them.
    raw = tvm.from_dlpack(array.view(f"uint{8 * array.itemsize}"))
    return tvm.view(raw, tvm.shape(array.shape), tvm.dtype(array.dtype.name), 0)


def reader(dtype: np.dtype[Any]) -> Callable[[Any], np.ndarray]:
    """What takes TVM's tensor, whose dtype is `dtype`, for an array of the same memory."""
    return np.from_dlpack if dtype.kind != "V" else partial(_read_bytes, dtype)


def _read_bytes(dtype: np.dtype[Any], tensor: Any) -> np.ndarray:
    tvm = runtime()
    raw = tvm.view(tensor, tvm.shape(tensor.shape), tvm.dtype(f"uint{8 * dtype.itemsize}"), 0)
    return np.from_dlpack(raw).view(dtype)


def default_threads(wish: int) -> int:
    """How many threads a session takes that is not told: TVM_NUM_THREADS, else `wish`."""
    set_by_user = os.environ.get("TVM_NUM_THREADS", "")
    return int(set_by_user) if set_by_user.isdigit() and int(set_by_user) else wish


@contextmanager
def _without_torch() -> Iterator[None]:
    """Keep tvm_ffi from importing torch, a second and 200 MB that a session has no use for.

    A torch that is imported already stays, and other threads may import it meanwhile.
    """
    if "torch" in sys.modules or sys.platform == "win32":    # there the order of imports matters
        yield
        return
    finder = _NoTorch(threading.get_ident())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _NoTorch:
    def __init__(self, thread: int) -> None:
        self._thread = thread

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "torch" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError("torch is left out on purpose", name=name)
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
