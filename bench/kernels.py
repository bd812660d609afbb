"""Time single kernels on this machine: every line of shapes/*.txt, of a known and of any size."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tvm
from tvm import tirx

from bench import peak
from pocketformer import targets
from pocketformer.passes.precision import multiplied_by
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.kernel import Kernel
from pocketformer.schedules.workloads import (
    ACTIVATIONS,
    Attention,
    Linear,
    Norm,
    QuantizedLinear,
    Softmax,
    WeightOnlyLinear,
    Workload,
)
from pocketformer.targets import Target

SHAPES = Path(__file__).parent / "shapes"
ROUNDS, SECONDS = 5, 0.2       # the machine may be busy: the best of several short rounds
Shapes = list[tuple[int, ...]]
Case = tuple[Workload, Workload, Shapes, float]


def main() -> None:
    names = sorted(path.stem for path in SHAPES.glob("*.txt"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="SHAPES", help=f"of {', '.join(names)}; all")
    parser.add_argument("--target", default="host", help="whose code to run here (default: host)")
    wanted = parser.parse_args()
    if unknown := set(wanted.shapes) - set(names):
        parser.error(f"no shapes {unknown.pop()!r}; there are {', '.join(names)}")
    target = targets.load(wanted.target)
    peaks = {each: peak.gflops(each, 1, target) for each in peak.PRECISIONS}
    told = [f"{each} {limit:.1f}" for each, limit in peaks.items() if limit is not None]
    print(f"One thread multiplies and adds at {', '.join(told)} GFLOP/s.\n")
    print("| workload | kernel | us | GFLOP/s | of peak | any size: us |")
    print("|---|---|---|---|---|---|")
    for name in wanted.shapes or names:
        for known, symbolic, shapes, flops in cases(SHAPES / f"{name}.txt"):
            kernel, seconds = measure(known, shapes, target)
            _, unknown_seconds = measure(symbolic, shapes, target)
            speed = flops / seconds * 1e-9
            limit = peaks[multiplied_by(kernel)]
            share = "" if limit is None else f"{speed / limit:.0%}"
            print(f"| {known} | {kernel} | {seconds * 1e6:.1f} | {speed:.1f} | "
                  f"{share} | {unknown_seconds * 1e6:.1f} |", flush=True)


def cases(path: Path) -> Iterator[Case]:
    """For each line: the workload, the same of any size, its arrays' shapes, operations."""
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield READERS[path.stem](line.split())


def linear(words: list[str]) -> Case:
    """M N K, then bias, residual, an activation, a dtype of weights, or int4g32, int8 (rounded)."""
    m, n, k = map(int, words[:3])
    flags = set(words[3:])
    (activation,) = flags & set(ACTIVATIONS) or {""}
    options: dict[str, Any] = {
        "bias": "bias" in flags, "activation": activation, "residual": "residual" in flags}
    work: Linear | WeightOnlyLinear
    if small := next((flag for flag in flags if flag.startswith("int")), ""):
        bits, _, group = small.removeprefix("int").partition("g")
        work = WeightOnlyLinear(m, n, k, int(bits), int(group) if group else None,
                                "rounded" in flags, **options)
    else:
        (dtype,) = flags & {"bfloat16"} or {"float32"}
        work = Linear(m, n, k, dtype=dtype, **options)
    scales = [(work.groups, n)] if isinstance(work, WeightOnlyLinear) else []
    shapes: Shapes = [(m, k), (k, n), *scales, *[(n,)] * work.bias, *[(m, n)] * work.residual,
                      (m, n)]
    return work, replace(work, m=None), shapes, 2.0 * m * n * k


def quantized(words: list[str]) -> Case:
    """M N K, then bias, an activation, to_int8; rows: x has a scale and a zero for each, which with
    by_kernel the kernel finds."""
    m, n, k = map(int, words[:3])
    flags = set(words[3:])
    (activation,) = flags & set(ACTIVATIONS) or {""}
    rows = "rows" in flags
    work = QuantizedLinear(
        m, n, k, "float32" if "by_kernel" in flags else "int8", rows, rows, "bias" in flags,
        activation, out_dtype="int8" if "to_int8" in flags else "float32")
    scales: Shapes = [] if "by_kernel" in flags else [(m,), (m,)] if rows else [(1,)]
    last: Shapes = [(n,), (1,)] if "to_int8" in flags else []
    shapes: Shapes = [(m, k), (k, n), (n,), (n,), *scales, *[(n,)] * work.bias, *last, (m, n)]
    return work, replace(work, m=None), shapes, 2.0 * m * n * k


def attention(words: list[str]) -> Case:
    batch, q_len, kv_len, heads, kv_heads, size = map(int, words[:6])
    mask = (True, False, False) if "mask" in words else None
    (dtype,) = {*words} & {"bfloat16", "int8"} or {"float32"}
    work = Attention(batch, q_len, kv_len, heads, kv_heads, size, size, size**-0.5, mask,
                     causal="causal" in words, dtype=dtype)
    queries, keys = (batch, q_len, heads, size), (batch, kv_len, kv_heads, size)
    shapes: Shapes = [queries, keys, keys, *[(batch, 1, 1, kv_len)] * (mask is not None), queries]
    seen = [min(kv_len, i + 1 + kv_len - q_len) if work.causal else kv_len for i in range(q_len)]
    flops = 4.0 * batch * heads * sum(seen) * size
    return work, replace(work, batch=None, q_len=None, kv_len=None), shapes, flops


def rows(words: list[str]) -> Case:
    kind, flags = words[0], words[3:]
    count, size = map(int, words[1:3])
    shape = (count, size)
    if kind == "softmax":
        return Softmax(*shape), Softmax(None, None), [shape, shape], 5.0 * count * size
    work = Norm(count, size, kind, 1e-5, "residual" in flags, "sum" in flags, "bias" in flags)
    shapes: Shapes = [shape, *[shape] * work.residual, (size,), *[(size,)] * work.bias,
                      shape, *[shape] * work.keep_sum]
    return work, replace(work, rows=None), shapes, 7.0 * count * size


READERS: dict[str, Callable[[list[str]], Case]] = {
    "bert_gemm": linear, "gemv": linear, "gemv_large": linear, "attention": attention, "rows": rows,
    "bert_gemm_bfloat16": linear, "bert_gemm_int8": quantized,
}


def measure(workload: Workload, shapes: Shapes, target: Target) -> tuple[str, float]:
    """The kernel's name, and the seconds of its fastest call."""
    kernel = pick(workload, target)
    arrays = [tvm.runtime.tensor(array) for array in made_up(kernel, shapes)]
    library = tvm.compile(kernel.func.with_attr("global_symbol", "kernel"), target=target.tvm())
    return kernel.name, fastest(library["kernel"], arrays)


def made_up(kernel: Kernel, shapes: Shapes) -> list[np.ndarray[Any, Any]]:
    """What a kernel takes; an array whose size it does not know has the given shape."""
    random = np.random.default_rng(0)
    arrays = []
    for array, shape in zip(kernel.func.params, shapes, strict=True):
        known = all(isinstance(size, tirx.IntImm) for size in array.shape)
        sizes, dtype = tuple(map(int, array.shape)) if known else shape, str(array.dtype)
        if dtype.startswith("int"):
            arrays.append(random.integers(-128, 128, sizes).astype(dtype))
        else:
            arrays.append(random.standard_normal(sizes, "float32").astype(
                ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    return arrays


def fastest(function: Any, arrays: list[Any]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        end = time.perf_counter() + SECONDS
        while (start := time.perf_counter()) < end:
            function(*arrays)
            best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
