"""The C API through ctypes. Imports no TVM: a process that calls it must have only one of them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

ERROR_SYMBOL = "TVMFFIErrorSetRaisedFromCStrParts"    # what kernels call


class TensorInfo(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p), ("dtype", c_char_p), ("item_bytes", c_size_t), ("rank", c_int),
        ("axes", POINTER(c_char_p)),
    )


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p), ("bytes", c_size_t), ("dtype", c_char_p), ("rank", c_int),
        ("shape", POINTER(c_int64)),
    )


class Call(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("start_ns", c_int64), ("end_ns", c_int64))


class CApiError(Exception):
    """What pf_last_error tells."""


_library: list[ctypes.CDLL] = []


def load(path: Path) -> None:
    """Load the runtime for this process alone, as Python and Java do."""
    library = ctypes.CDLL(str(path))
    library.pf_open.restype = c_void_p
    library.pf_axis_size.restype = c_int64
    for name in ("pf_last_error", "pf_level", "pf_version", "pf_tvm_version"):
        getattr(library, name).restype = c_char_p
    _library.append(library)


def call(name: str, *arguments: Any) -> Any:
    """What the function returns. Raises CApiError."""
    result = getattr(_library[0], name)(*arguments)
    if result is None or (isinstance(result, int) and result < 0):
        raise CApiError(_library[0].pf_last_error().decode())
    return result


class Session:
    def __init__(self, folder: Path | str, threads: int = 0) -> None:
        self._handle = c_void_p(call("pf_open", os.fsencode(folder), threads))

    def close(self) -> None:
        _library[0].pf_close(self._handle)

    def describe(self, kind: str) -> list[dict[str, Any]]:
        found = []
        for i in range(self.call(f"pf_{kind}_count")):
            info = TensorInfo()
            self.call(f"pf_describe_{kind}", i, byref(info))
            found.append({
                "name": info.name.decode(), "dtype": info.dtype.decode(),
                "item_bytes": info.item_bytes,
                "axes": [info.axes[k].decode() for k in range(info.rank)],
            })
        return found

    def call(self, name: str, *arguments: Any) -> Any:
        return call(name, self._handle, *arguments)

    def set(self, name: str, array: np.ndarray, size: int | None = None) -> None:
        index = self.call("pf_find_input", name.encode())
        data = np.ascontiguousarray(array)
        shape = (c_int64 * array.ndim)(*array.shape)
        count = data.nbytes if size is None else size
        self.call("pf_set_input", index, c_void_p(data.ctypes.data), c_size_t(count), shape,
                  array.ndim)

    def output(self, index: int) -> tuple[tuple[int, ...], str, bytes]:
        """Shape, dtype and bytes of an output of the last run."""
        tensor = Tensor()
        self.call("pf_get_output", index, byref(tensor))
        shape = tuple(tensor.shape[k] for k in range(tensor.rank))
        return shape, tensor.dtype.decode(), ctypes.string_at(tensor.data, tensor.bytes)

    def run(self, given: Mapping[str, np.ndarray]) -> list[tuple[tuple[int, ...], str, bytes]]:
        for name, array in given.items():
            self.set(name, array)
        self.call("pf_run")
        return [self.output(i) for i in range(self.call("pf_output_count"))]

    def profile(self) -> list[tuple[str, int, int]]:
        calls, count = POINTER(Call)(), c_size_t()
        self.call("pf_profile", 0, byref(calls), byref(count))
        return [(calls[i].name.decode(), calls[i].start_ns, calls[i].end_ns)
                for i in range(count.value)]


# What a test lets the process do.

def run(
    folder: Path, given: Sequence[Mapping[str, np.ndarray]], threads: int = 1
) -> list[list[tuple[tuple[int, ...], str, bytes]]]:
    """The outputs of one session for each of `given`."""
    session = Session(folder, threads)
    results = [session.run(each) for each in given]
    session.close()
    return results


def refusal(folder: Path | str, threads: int = 0) -> str:
    """Why the bundle cannot be opened; "" if it can."""
    try:
        Session(folder, threads).close()
    except CApiError as error:
        return str(error)
    return ""


def run_refusals(folder: Path, given: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """Why each of `given` cannot be run, in sessions of their own."""
    found = []
    for each in given:
        session = Session(folder)
        try:
            session.run(each)
            found.append("")
        except CApiError as error:
            found.append(str(error))
        session.close()
    return found


def describe(folder: Path) -> str:
    session = Session(folder)
    found = json.dumps({"inputs": session.describe("input"), "outputs": session.describe("output")})
    session.close()
    return found


def thread_count(folder: Path, asked: int, environment: str | None = None) -> int:
    os.environ.pop("TVM_NUM_THREADS", None)
    if environment is not None:
        os.environ["TVM_NUM_THREADS"] = environment
    session = Session(folder, asked)
    found = int(session.call("pf_threads"))
    session.close()
    return found


def level(folder: Path, environment: str | None) -> str:
    """The level that is opened, or what is said of the variable that names another one."""
    os.environ.pop("POCKETFORMER_LEVEL", None)
    if environment is not None:
        os.environ["POCKETFORMER_LEVEL"] = environment
    try:
        session = Session(folder)
    except CApiError as error:
        return str(error)
    finally:
        os.environ.pop("POCKETFORMER_LEVEL", None)
    found = session.call("pf_level").decode()
    session.close()
    return str(found)


def profile(folder: Path, given: Mapping[str, np.ndarray]) -> list[list[tuple[str, int, int]]]:
    """The calls of two profiled runs, with a plain one between them."""
    session = Session(folder)
    session.run(given)
    first = session.profile()
    session.run(given)
    return [first, session.profile()]


def axis_sizes(formulas: Sequence[str], sizes: Mapping[str, int]) -> list[int | str]:
    names = (c_char_p * len(sizes))(*(name.encode() for name in sizes))
    values = (c_int64 * len(sizes))(*sizes.values())
    found: list[int | str] = []
    for formula in formulas:
        try:
            found.append(call("pf_axis_size", formula.encode(), names, values, len(sizes)))
        except CApiError as error:
            found.append(str(error))
    return found


def null_results() -> dict[str, Any]:
    """What every function gives for NULL."""
    library, nothing = _library[0], c_void_p(None)
    library.pf_close(nothing)
    calls = {
        "pf_open": (nothing, 0), "pf_threads": (nothing,), "pf_level": (nothing,),
        "pf_input_count": (nothing,),
        "pf_output_count": (nothing,), "pf_describe_input": (nothing, 0, nothing),
        "pf_describe_output": (nothing, 0, nothing), "pf_find_input": (nothing, b"x"),
        "pf_find_output": (nothing, nothing), "pf_run": (nothing,),
        "pf_axis_size": (nothing, nothing, nothing, 1),
        "pf_set_input": (nothing, 0, nothing, c_size_t(4), nothing, 1),
        "pf_get_output": (nothing, 0, nothing), "pf_profile": (nothing, 0, nothing, nothing),
    }
    return {
        name: (getattr(library, name)(*arguments), library.pf_last_error().decode())
        for name, arguments in calls.items()
    }


def null_arguments(folder: Path) -> list[str]:
    """What an open session says to NULL where it wants something else."""
    session, nothing = Session(folder), c_void_p(None)
    one = (c_int64 * 1)(1)
    calls: list[tuple[Any, ...]] = [
        ("pf_describe_input", 0, nothing), ("pf_describe_output", 0, nothing),
        ("pf_find_input", nothing), ("pf_set_input", 0, nothing, c_size_t(4), nothing, 1),
        ("pf_get_output", 0, nothing), ("pf_profile", 0, nothing, nothing),
        ("pf_set_input", 9, nothing, c_size_t(0), one, 1),
        ("pf_set_input", 0, nothing, c_size_t(0), one, -1),
        ("pf_set_input", 0, nothing, c_size_t(0), one, 2**31 - 1),
        ("pf_describe_output", -1, nothing),
        ("pf_get_output", 0, byref(Tensor())),
    ]
    found = []
    for name, *arguments in calls:
        try:
            session.call(name, *arguments)
            found.append("")
        except CApiError as error:
            found.append(str(error))
    session.close()
    return found


def run_in_threads(
    folders: Sequence[Path], given: Mapping[str, np.ndarray], rounds: int
) -> list[list[bytes]]:
    """The first output of every run, of a thread and session for each of `folders`."""
    found: list[list[bytes]] = [[] for _ in folders]
    start = threading.Barrier(len(folders))

    def work(i: int) -> None:
        session = Session(folders[i], threads=2)
        start.wait()
        for _ in range(rounds):
            found[i].append(session.run(given)[0][2])
        session.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(folders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def run_in_child(folder: Path, given: Mapping[str, np.ndarray]) -> tuple[int, int, bool]:
    """How many threads two runs started, how many there are in a child of fork() that ran this
    session and one of its own, and whether all outputs were the same; 0, False if the child failed.
    """
    session = Session(folder, threads=2)
    before = len(os.listdir("/proc/self/task"))
    right = session.run(given)[0][2]
    again = session.run(given)[0][2]
    found = len(os.listdir("/proc/self/task")) - before
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(50)    # it may hang, and the worker that it copies must not go on twice
        try:
            other = Session(folder, threads=2)
            same = right == again == session.run(given)[0][2] == other.run(given)[0][2]
            os.write(write, bytes([len(os.listdir("/proc/self/task")), same]))
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    count, same = os.read(read, 2) or (0, 0)
    session.close()
    return found, count, bool(same)


def seconds_after_a_run(folder: Path, given: Mapping[str, np.ndarray]) -> float:
    """The processor's time that passes in 0.1 seconds after a run on two threads."""
    session = Session(folder, threads=2)
    found = []
    for _ in range(5):    # numpy has threads of its own, which may be busy, too
        session.run(given)
        start = time.process_time()
        time.sleep(0.1)
        found.append(time.process_time() - start)
    return min(found)


def last_errors_by_thread(folder: str) -> tuple[str, str]:
    """What a thread is told that failed, and another one that did not."""
    refusal(folder)
    other: list[str] = []
    thread = threading.Thread(target=lambda: other.append(_library[0].pf_last_error().decode()))
    thread.start()
    thread.join()
    return _library[0].pf_last_error().decode(), other[0]


def kept_output(folder: Path, given: Mapping[str, np.ndarray], index: int) -> tuple[bytes, bytes]:
    """An output before and after another input is set, without copying it in between."""
    session = Session(folder)
    before = session.run(given)[index][2]
    for name, array in given.items():
        session.set(name, np.zeros_like(array))
    after = session.output(index)[2]
    session.close()
    return before, after


def replaced_while_open(
    folder: Path, other: Path, given: Mapping[str, np.ndarray]
) -> list[bytes]:
    """The first output of a bundle, of another that took its place meanwhile, and of it again."""
    first = Session(folder)
    found = [first.run(given)[0][2]]
    os.rename(folder, folder.with_name("away.pf"))
    os.rename(other, folder)
    second = Session(folder)
    found += [second.run(given)[0][2], first.run(given)[0][2]]
    first.close()
    second.close()
    return found


def sees_symbol() -> bool:
    """Whether a library that is loaded now would find what kernels report errors with."""
    return hasattr(ctypes.CDLL(None), ERROR_SYMBOL)


def sees_symbol_after_opening(folder: Path) -> bool:
    Session(folder).close()
    return sees_symbol()


def memory_of_reopening(folder: Path, given: Mapping[str, np.ndarray], times: int) -> list[int]:
    """Resident bytes after each of `times` sessions that were opened, run and closed."""
    found = []
    for _ in range(times):
        run(folder, [given])
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * os.sysconf("SC_PAGESIZE"))
    return found
