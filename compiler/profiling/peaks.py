"""What a processor can do at best, as a bundle to be compiled for it: multiply-adds and reading.

Each thread has a share of its own, so that the model is as parallel as it has to be. The inputs are
there for their lengths: they say how much is done, and cost next to nothing to send to a device.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tvm import relax, tirx
from tvm.ir import GlobalVar, IRModule

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.link import Linker
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import Entry
from pocketformer.compiler.model import Dim, TensorSpec
from pocketformer.compiler.pipeline import finish, run
from pocketformer.compiler.pool import pool_objects
from pocketformer.schedules.cpu.intrinsics import Isa, isa_of
from pocketformer.schedules.cpu.kernel import (
    Builder,
    Expr,
    Tile,
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
STREAMS = 8         # vectors that are read in a step, each added to a sum of its own


def accumulators(target: Target) -> int:
    """How many multiply-adds are under way at a time: enough to hide how long each takes."""
    return isa_of(target).registers * 3 // 4


def operations(target: Target, threads: int, rounds: int) -> int:
    """Floating-point operations of a call of MULTIPLY_ADD."""
    return 2 * accumulators(target) * isa_of(target).lanes * threads * rounds


def compile_peaks(target: Target) -> Bundle:
    """A bundle whose dimensions are DIMS: it fills the memory that it then reads.

    `kib` is what each thread reads, `times` over. Raises LinkFailed.
    """
    specs = tuple(TensorSpec(name, (name,), "uint8") for name in DIMS)
    lanes = isa_of(target).lanes
    manifest = Manifest.describe(
        name="peaks",
        target=target,
        recipe="float32",
        inputs=specs,
        outputs=tuple(
            TensorSpec(name, (THREADS, lanes), "float32") for name in (MULTIPLY_ADD, READ)
        ),
        dims={name: Dim() for name in DIMS},
        entries=(Entry("main", {}, ()),),
    )
    module = run(_module(target), finish(target), target)
    executable = relax.build(module, target.tvm(), relax_pipeline=None)
    with TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        executable.export_library(str(library), fcompile=Linker(target, also=pool_objects(target)))
        return Bundle.create(library, {}, manifest)


def _module(target: Target) -> IRModule:
    isa = isa_of(target)
    builder = relax.BlockBuilder()
    kernels = {
        func.attrs["global_symbol"]: builder.add_func(
            func.without_attr("global_symbol"), func.attrs["global_symbol"]
        )
        for func in (_multiply_add(isa, accumulators(target)), _fill(isa), _read(isa))
    }
    sizes = {name: tirx.Var(name, "int64") for name in DIMS}
    inputs = {
        name: relax.Var(name, relax.TensorType([size], "uint8")) for name, size in sizes.items()
    }
    attrs = {"num_input": len(inputs), "global_symbol": "main"}
    with builder.function("main", list(inputs.values()), attrs=attrs):
        with builder.dataflow():
            out = builder.emit_output(relax.Tuple(_calls(builder, kernels, inputs, sizes, isa)))
        builder.emit_func_output(out)
    return builder.get()


def _calls(
    builder: relax.BlockBuilder, kernels: dict[str, GlobalVar], inputs: dict[str, relax.Var],
    sizes: dict[str, tirx.Var], isa: Isa,
) -> list[relax.Var]:
    def call(name: str, args: list[Any], shape: list[Any]) -> relax.Var:
        out = relax.TensorType(shape, "float32")
        return builder.emit(relax.call_tir(kernels[name], args, out))

    result = [sizes[THREADS], isa.lanes]
    products = call(MULTIPLY_ADD, [inputs[ROUNDS]], result)
    memory = call(FILL, [inputs[ROUNDS]], [sizes[THREADS], sizes[KIB] * BLOCK])
    return [products, call(READ, [memory, inputs[TIMES]], result)]


def _multiply_add(isa: Isa, count: int) -> tirx.PrimFunc:
    """`rounds` steps of sum = sum * factor + term for each of `count` vectors of a thread."""
    with prim_func(MULTIPLY_ADD) as function:
        rounds = function.size(ROUNDS, None)
        # Its numbers are not known when it is compiled, so that no step can be foreseen.
        seeds = function.argument("seeds", (rounds,), "uint8")
        out = _result(function, isa)
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
            _store_sum(out, thread, tile, count, isa)
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
        out = _result(function, isa)
        with parallel_loop(threads, True) as thread:
            tile = Tile(STREAMS, isa.lanes)
            for way in range(STREAMS):
                tile.store(splat(0.0, isa.lanes), way, 0)
            with loop(times.shape[0]), loop(size // width) as step:
                for way in range(STREAMS):
                    at = step * width + way * isa.lanes
                    tile.add(load(memory, thread, at, lanes=isa.lanes), way, 0)
            _store_sum(out, thread, tile, STREAMS, isa)
    return function.func


def _result(function: Builder, isa: Isa) -> Any:
    return function.argument("out", (function.size(THREADS, None), isa.lanes))


def _store_sum(out: Any, thread: Expr, tile: Tile, count: int, isa: Isa) -> None:
    total = tile.load(0, 0, isa.lanes)
    for row in range(1, count):
        total = total + tile.load(row, 0, isa.lanes)
    store(out, total, thread, 0)
