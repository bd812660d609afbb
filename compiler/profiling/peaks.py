"""What a processor can do at best, as a bundle to be compiled for it: products and reading.

Each thread has a share of its own, so that the model is as parallel as it has to be. The inputs are
there for their lengths: they say how much is done, and cost next to nothing to send to a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import relax, tirx
from tvm.ir import GlobalVar, IRModule
from tvm.tirx.script.builder import ir as T

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.code_bundle import code_bundle
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import Entry
from pocketformer.compiler.model import Dim, TensorSpec
from pocketformer.compiler.pipeline import finish
from pocketformer.schedules.cpu.dot import BFloat16Widened, Dot, Int8Widened
from pocketformer.schedules.cpu.dot_table import dots_of
from pocketformer.schedules.cpu.intrinsics import Isa, isa_of
from pocketformer.schedules.cpu.kernel import (
    Builder,
    Expr,
    Tile,
    imported,
    load,
    loop,
    parallel_loop,
    prim_func,
    splat,
    store,
)
from pocketformer.targets import Target

MULTIPLY_ADD, FILL, READ = "peak_multiply_add", "peak_fill", "peak_read"
THREADS, ROUNDS, KIB, TIMES = "threads", "rounds", "kib", "times"
DIMS = (THREADS, ROUNDS, KIB, TIMES)
BLOCK = 256         # numbers of a KiB
SHORT = ("bfloat16", "float16", "int8")
ONE = {"bfloat16": 0x3F800000}     # a word whose upper half is one; of others the lowest is
STREAMS = 8         # vectors that are read in a step, each added to a sum of its own


def accumulators(target: Target) -> int:
    """How many multiply-adds are under way at a time: enough to hide how long each takes."""
    return isa_of(target).registers * 3 // 4


def operations(target: Target, threads: int, rounds: int) -> dict[str, int]:
    """Operations of a call of each product's kernel, by dtype: two for a product and its sum."""
    steps = accumulators(target) * threads * rounds
    short = {dot.dtype: 2 * steps * dot.products
             for dot in products_of(target)}
    return {"float32": 2 * steps * isa_of(target).lanes, **short}


def products_of(target: Target) -> Iterator[Dot]:
    """The best instruction for products of each short dtype for which `target` has one."""
    for dtype in SHORT:
        dot = next(dots_of(target, dtype), None)
        if dot is not None and not isinstance(dot, BFloat16Widened | Int8Widened):
            yield dot


def kernel_of(dtype: str) -> str:
    """The kernel that is the limit of products of `dtype`."""
    return MULTIPLY_ADD if dtype == "float32" else f"peak_{dtype}"


def kernels(target: Target) -> dict[str, int]:
    """All kernels of the bundle, and the lanes of their results, in the order of its outputs."""
    lanes = isa_of(target).lanes
    short = {kernel_of(dot.dtype): dot.lanes for dot in products_of(target)}
    return {MULTIPLY_ADD: lanes, READ: lanes, **short}


def compile_peaks(target: Target) -> Bundle:
    """A bundle whose dimensions are DIMS: it fills the memory that it then reads.

    `kib` is what each thread reads, `times` over. Raises LinkFailed.
    """
    specs = tuple(TensorSpec(name, (name,), "uint8") for name in DIMS)
    manifest = Manifest.describe(
        name="peaks",
        target=target,
        recipe="float32",
        inputs=specs,
        outputs=tuple(
            TensorSpec(name, (THREADS, lanes), "float32")
            for name, lanes in kernels(target).items()
        ),
        dims={name: Dim() for name in DIMS},
        entries=(Entry("main", {}, ()),),
    )
    return code_bundle(_module(target), finish(target), target, manifest)


def _module(target: Target) -> IRModule:
    isa = isa_of(target)
    builder = relax.BlockBuilder()
    count = accumulators(target)
    short = [_products(dot, count) for dot in products_of(target)]
    functions = {
        func.attrs["global_symbol"]: builder.add_func(
            func.without_attr("global_symbol"), func.attrs["global_symbol"]
        )
        for func in (_multiply_add(isa, count), _fill(isa), _read(isa), *short)
    }
    sizes = {name: tirx.Var(name, "int64") for name in DIMS}
    inputs = {
        name: relax.Var(name, relax.TensorType([size], "uint8")) for name, size in sizes.items()
    }
    attrs = {"num_input": len(inputs), "global_symbol": "main"}
    with builder.function("main", list(inputs.values()), attrs=attrs):
        with builder.dataflow():
            calls = _calls(builder, functions, inputs, sizes, kernels(target))
            out = builder.emit_output(relax.Tuple(calls))
        builder.emit_func_output(out)
    return builder.get()


def _calls(
    builder: relax.BlockBuilder, functions: dict[str, GlobalVar], inputs: dict[str, relax.Var],
    sizes: dict[str, tirx.Var], lanes: dict[str, int],
) -> list[relax.Var]:
    def call(name: str, args: list[Any], shape: list[Any]) -> relax.Var:
        out = relax.TensorType(shape, "float32")
        return builder.emit(relax.call_tir(functions[name], args, out))

    memory = call(FILL, [inputs[ROUNDS]], [sizes[THREADS], sizes[KIB] * BLOCK])
    return [
        call(name, [memory, inputs[TIMES]] if name == READ else [inputs[ROUNDS]],
             [sizes[THREADS], width])
        for name, width in lanes.items()
    ]


def _multiply_add(isa: Isa, count: int) -> tirx.PrimFunc:
    """`rounds` steps of sum = sum * factor + term for each of `count` vectors of a thread."""
    with prim_func(MULTIPLY_ADD) as function:
        rounds = function.size(ROUNDS, None)
        # Its numbers are not known when it is compiled, so that no step can be foreseen.
        seeds = function.argument("seeds", (rounds,), "uint8")
        out = _result(function, isa.lanes)
        with parallel_loop(function.size(THREADS, None), True) as thread:
            factor, term = (
                splat(seeds[0].astype("float32") + tirx.const(value, "float32"), isa.lanes)
                for value in (0.5, 0.25)
            )
            tile = Tile(count, isa.lanes)
            for row in range(count):
                tile.store(splat(row / count, isa.lanes), row, 0)
            with loop(rounds):
                for row in range(count):
                    tile.store(tile.load(row, 0, isa.lanes) * factor + term, row, 0)
            _store_sum(out, thread, tile, count, isa.lanes)
    return function.func


def _products(dot: Dot, count: int) -> tirx.PrimFunc:
    """`rounds` steps of sum = sum + sum's own bits * factor, by the instruction of `dot`.

    Factors that a step does not change would be multiplied once, before all steps.
    """
    with prim_func(kernel_of(dot.dtype)) as function:
        rounds = function.size(ROUNDS, None)
        seeds = function.argument("seeds", (rounds,), "uint8")
        out = _result(function, dot.lanes)
        threads = function.size(THREADS, None)
        with imported(dot.llvm), parallel_loop(threads, True) as thread:
            one = tirx.const(ONE.get(dot.dtype, 1), dot.held)
            words = T.broadcast(seeds[0].astype(dot.held) * one, dot.lanes)
            factor = T.bind(dot.right(words)[0])
            tile = Tile(count, dot.lanes, dot.sums)
            for row in range(count):
                start = tirx.const(row, dot.sums)
                tile.store(T.broadcast(start, dot.lanes), row, 0)
            with loop(rounds):
                for row in range(count):
                    total = tile.load(row, 0, dot.lanes)
                    left = tirx.reinterpret(f"{dot.word}x{dot.lanes}", total)
                    tile.store(dot.add(total, left, factor), row, 0)
            _store_sum(out, thread, tile, count, dot.lanes)
    return function.func


def _fill(isa: Isa) -> tirx.PrimFunc:
    """Numbers for the other kernel to read; every thread writes what it will read."""
    with prim_func(FILL) as function:
        seeds = function.argument("seeds", (function.size(ROUNDS, None),), "uint8")
        size = function.size("size", None)
        out = function.argument("out", (function.size(THREADS, None), size))
        with parallel_loop(out.shape[0], True) as thread, loop(size // isa.lanes) as step:
            value = splat(seeds[0].astype("float32"), isa.lanes)
            store(out, value, thread, step * isa.lanes)
    return function.func


def _read(isa: Isa) -> tirx.PrimFunc:
    """The sum of a thread's memory, `times` over, in STREAMS vectors."""
    width = STREAMS * isa.lanes
    with prim_func(READ) as function:
        size = function.size("size", None)
        threads = function.size(THREADS, None)
        memory = function.argument("memory", (threads, size))
        times = function.argument("times", (function.size(TIMES, None),), "uint8")
        out = _result(function, isa.lanes)
        with parallel_loop(threads, True) as thread:
            tile = Tile(STREAMS, isa.lanes)
            for way in range(STREAMS):
                tile.store(splat(0.0, isa.lanes), way, 0)
            with loop(times.shape[0]), loop(size // width) as step:
                for way in range(STREAMS):
                    at = step * width + way * isa.lanes
                    tile.add(load(memory, thread, at, lanes=isa.lanes), way, 0)
            _store_sum(out, thread, tile, STREAMS, isa.lanes)
    return function.func


def _result(function: Builder, lanes: int) -> Any:
    return function.argument("out", (function.size(THREADS, None), lanes))


def _store_sum(out: Any, thread: Expr, tile: Tile, count: int, lanes: int) -> None:
    total = tile.load(0, 0, lanes)
    for row in range(1, count):
        total = total + tile.load(row, 0, lanes)
    store(out, total.astype(f"float32x{lanes}"), thread, 0)
