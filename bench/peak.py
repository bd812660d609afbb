"""The arithmetic limit of this machine: what loops of multiply-adds on registers alone reach."""

from __future__ import annotations

import ctypes
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.arm.counting import compile_c
from pocketformer import targets
from pocketformer.targets import Target

PRECISIONS = ("float32", "bfloat16", "int8")
ROUNDS, STEPS = 80, 1_000_000       # a round takes about 10 ms, and the machine may be busy in some
# What clang calls the names of Target.isa: an option each, or what is added to -march.
X86 = {"sse4": "-msse4.2", "avx": "-mavx", "avx2": "-mavx2", "fma": "-mfma",
       "avx512f": "-mavx512f", "avx512vnni": "-mavx512vnni", "avx512bf16": "-mavx512bf16"}
ARM = {"dotprod": "dotprod", "i8mm": "i8mm", "bf16": "bf16"}


def gflops(precision: str, threads: int = 1, target: Target | None = None) -> float | None:
    """The most billions of operations a second, a multiply-add counting as two.

    With a `target`, by its instructions; this machine must have them. None where they have no
    multiply-add of this precision. Raises BuildFailed where the loop cannot be compiled.
    """
    peak = getattr(_library(target or targets.load("host")), f"peak_{precision}")
    peak.restype, peak.argtypes = ctypes.c_double, (ctypes.c_int64,)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:    # ctypes lets go of Python's lock
        for _ in range(ROUNDS):
            start = time.perf_counter()
            operations = sum(pool.map(peak, [STEPS] * threads))
            best = max(best, operations / (time.perf_counter() - start) * 1e-9)
    return best or None


@functools.cache
def _library(target: Target) -> ctypes.CDLL:
    if target.arch == "x86_64":
        options = [X86[name] for name in sorted(target.isa & X86.keys())]
    else:
        options = ["+".join(["-mcpu=generic", *(ARM[n] for n in sorted(target.isa & ARM.keys()))])]
    source = Path(__file__).with_name("peak.c")
    return ctypes.CDLL(
        str(compile_c(source, f"{target.arch}-linux-gnu", "-shared", "-fPIC", *options))
    )
