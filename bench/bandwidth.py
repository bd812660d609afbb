"""How fast this machine reads memory, and linear layers of one row their weights, in GB/s.

Such a layer does little with a weight but read it, so that reading alone is its limit. Both are
timed in turns: each call of a kernel stands beside a call of a loop that reads as many bytes and
adds them up, on as many threads.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from bench.kernels import SHAPES, Shapes, cases, made_up
from pocketformer import targets
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.schedules.cpu.kernel import (
    Tile,
    load,
    loop,
    parallel_loop,
    prim_func,
    splat,
    store,
)
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target

VECTORS = 8          # sums at a time: enough for additions never to wait
LEAST = 128          # MiB that are read: several times the last cache of most machines
ROUNDS = 15


@dataclass(frozen=True)
class Read:
    """One call of a kernel, in GB/s of its weights (10^9 bytes), beside a loop that only reads."""

    workload: str
    kernel: str
    weights: int
    speed: float
    bandwidth: float


def main() -> None:
    names = [path.stem for path in sorted(SHAPES.glob("gemv*.txt"))]
    parser = argparse.ArgumentParser(prog="python -m bench.bandwidth", description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="SHAPES", help=f"of {', '.join(names)}; all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="host", help="whose code to run here (default: host)")
    wanted = parser.parse_args()
    if unknown := set(wanted.shapes) - set(names):
        parser.error(f"no shapes {unknown.pop()!r}; there are {', '.join(names)}")
    os.environ["TVM_NUM_THREADS"] = str(wanted.threads)     # read when the first loop is shared
    target = targets.load(wanted.target)
    reader = Reader(target, wanted.threads)
    size = LEAST << 20
    speed = 1e-9 * size / reader.seconds(size)
    print(f"Reading {LEAST} MiB, threads: {wanted.threads}: {speed:.1f} GB/s.")
    print("\n| workload | kernel | weights: MiB | us | GB/s | reading: GB/s | of it |")
    print("|---|---|---|---|---|---|---|")
    for name in wanted.shapes or names:
        for known, _, shapes, _ in cases(SHAPES / f"{name}.txt"):
            found = measure(known, shapes, target, reader)
            print(f"| {found.workload} | {found.kernel} | {found.weights / 2**20:.1f} | "
                  f"{found.weights / found.speed * 1e-3:.1f} | {found.speed:.1f} | "
                  f"{found.bandwidth:.1f} | {found.speed / found.bandwidth:.0%} |", flush=True)


class Reader:
    """Sums an array, as wide as `target` does, on `threads` threads."""

    def __init__(self, target: Target, threads: int) -> None:
        lanes = isa_of(target).lanes
        self.row = VECTORS * lanes
        self.threads = threads
        with prim_func("read") as function:
            rows = function.size("rows", None)
            x = function.argument("x", (threads, rows, self.row))
            out = function.argument("out", (threads, lanes))
            with parallel_loop(threads, threads > 1) as thread:
                sums = Tile(VECTORS, lanes)
                for i in range(VECTORS):
                    sums.store(splat(0.0, lanes), i, 0)
                with loop(rows) as row:
                    for i in range(VECTORS):
                        sums.add(load(x, thread, row, i * lanes, lanes=lanes), i, 0)
                total = sums.load(0, 0, lanes)
                for i in range(1, VECTORS):
                    total = total + sums.load(i, 0, lanes)
                store(out, total, thread, 0)
        self._function = tvm.compile(function.func, target=target.tvm())["read"]
        self._out = tvm.runtime.tensor(np.zeros((threads, lanes), "float32"))

    def array(self, size: int) -> Any:
        """At least `size` bytes for a call."""
        rows = max(1, -(-size // (4 * self.threads * self.row)))
        return tvm.runtime.tensor(np.ones((self.threads, rows, self.row), "float32"))

    def __call__(self, array: Any) -> None:
        self._function(array, self._out)

    def seconds(self, size: int) -> float:
        """To read an array of `size` bytes: the fastest of a few calls."""
        array = self.array(size)
        return min(_seconds(self, array) for _ in range(ROUNDS))


def measure(workload: Workload, shapes: Shapes, target: Target, reader: Reader) -> Read:
    """The fastest call of `workload`'s kernel, and the fastest of as much reading between them.

    Weights that the caches hold would be read from there: the kernel goes through as many copies of
    them as make up `LEAST` MiB, and the reader through as many bytes.
    """
    kernel = pick(workload, target)
    library = tvm.compile(kernel.func.with_attr("global_symbol", "kernel"), target=target.tvm())
    arrays = made_up(kernel, shapes)
    weights = sum(array.nbytes for array in arrays[1:-1])
    copies = max(1, -(-(LEAST << 20) // weights))
    inputs = [[arrays[0], *map(np.copy, arrays[1:-1]), arrays[-1]] for _ in range(copies)]
    calls = [[tvm.runtime.tensor(array) for array in each] for each in inputs]
    plain = reader.array(copies * weights)
    ours = theirs = float("inf")
    for _ in range(ROUNDS):
        ours = min(ours, sum(_seconds(library["kernel"], *call) for call in calls))
        theirs = min(theirs, _seconds(reader, plain))
    size = copies * weights * 1e-9
    return Read(str(workload), kernel.name, weights, size / ours, size / theirs)


def _seconds(function: Any, *arrays: Any) -> float:
    start = time.perf_counter()
    function(*arrays)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
