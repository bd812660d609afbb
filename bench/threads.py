"""Our threads beside TVM's own: a loop's cost, MiniLM, a busy core, what goes on after a run."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pocketformer.compiler.worker import Worker

LOOPS = 100     # kernels of the model that does nothing but share loops
TURNS = 5       # the machine may be busy itself: the engines take turns


class Ours:
    """A Session."""

    def load(self, path: str, threads: int) -> None:
        from pocketformer.compiler.example_inputs import make_inputs
        from pocketformer.compiler.session import Session

        self._session = Session(path, threads=threads)
        self._given = make_inputs(self._session.inputs, {})

    def call(self) -> None:
        self._session.run(self._given)

    def time(self, seconds: float) -> list[float]:
        """The milliseconds of all calls that fit into `seconds`."""
        found = []
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            self.call()
            found.append((time.perf_counter() - start) * 1e3)
        return found

    def after(self) -> float:
        """The milliseconds of processor time in the 100 after a call."""
        self.call()
        start = time.process_time()
        time.sleep(0.1)
        return (time.process_time() - start) * 1e3


class Tvms(Ours):
    """TVM's own virtual machine and threads, each of which it binds to a core."""

    def load(self, path: str, threads: int) -> None:
        import tvm
        from safetensors.numpy import load_file
        from tvm import relax

        from pocketformer.compiler.bundle import Bundle
        from pocketformer.compiler.example_inputs import make_inputs

        manifest = Bundle.load(path).manifest
        entry = manifest.entries[0]
        weights = load_file(Path(path) / "weights.safetensors") if entry.weights else {}
        given = make_inputs(manifest.inputs, {})
        arrays = [given[spec.name] for spec in manifest.inputs]
        self._tensors = [
            tvm.runtime.tensor(array)
            for array in [*arrays, *(weights[name] for name in entry.weights)]
        ]
        machine = relax.VirtualMachine(tvm.runtime.load_module(f"{path}/model.so"), tvm.cpu())
        self._function = machine[entry.function]

    def call(self) -> None:
        self._function(*self._tensors)


class TvmsUnbound(Tvms):
    """The same with TVM_BIND_THREADS=0: the system chooses the cores."""

    def __init__(self) -> None:
        os.environ["TVM_BIND_THREADS"] = "0"


Row = tuple[str, list[float]]
ENGINES = {"ours": Ours, "TVM's": Tvms, "TVM's, not bound": TvmsUnbound}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__)
    parser.add_argument("bundle", nargs="?", help="with fixed sizes (default: MiniLM, 1 x 128)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn (default: 1)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = Path(wanted.bundle) if wanted.bundle else compile_minilm(folder)
        loops, serial = compile_loops(folder, True), compile_loops(folder, False)
        rows: list[Row] = []
        for threads in (1, 2):
            with engines(threads) as workers:
                rows += measure(workers, threads, loops, serial, bundle, wanted.seconds)
    print(table(rows))


def measure(
    workers: list[Worker], threads: int, loops: Path, serial: Path, model: Path, seconds: float
) -> list[Row]:
    """Rows of figures, one an engine."""
    shared = [min(each) for each in turns(workers, loops, threads, seconds / 4)]
    alone = [min(each) for each in turns(workers, serial, threads, seconds / 4)]
    times = turns(workers, model, threads, seconds)
    with busy_core():
        disturbed = turns(workers, model, threads, seconds)
    return [
        (f"{threads} threads, a loop without work: us", [
            (with_threads - without) / LOOPS * 1e3
            for with_threads, without in zip(shared, alone, strict=True)
        ]),
        (f"{threads} threads, the model: least ms", [min(each) for each in times]),
        (f"{threads} threads, the model: median ms", [float(np.median(each)) for each in times]),
        (f"{threads} threads, and a core is busy: median ms",
         [float(np.median(each)) for each in disturbed]),
        (f"{threads} threads, the 100 ms after a run: busy ms", [idle(each) for each in workers]),
    ]


def turns(workers: list[Worker], path: Path, threads: int, seconds: float) -> list[list[float]]:
    """The milliseconds of every call, by engine; each stands still while another runs."""
    times: list[list[float]] = [[] for _ in workers]
    for turn in range(TURNS + 1):
        for each, worker in zip(times, workers, strict=True):
            worker.resume()
            if turn == 0:
                worker.ask("load", path=str(path), threads=threads)
                worker.ask("time", seconds=0.05)
            else:
                each.extend(worker.ask("time", seconds=seconds)["result"])
            worker.pause()
    return times


def idle(worker: Worker) -> float:
    worker.resume()
    least = min(worker.ask("after")["result"] for _ in range(TURNS))
    worker.pause()
    return float(least)


@contextmanager
def engines(threads: int) -> Iterator[list[Worker]]:
    """A process for each of ENGINES."""
    workers: list[Worker] = []
    try:
        for engine in ENGINES.values():
            workers.append(Worker(f"bench.threads:{engine.__name__}", threads))
            workers[-1].pause()
        yield workers
    finally:
        for worker in workers:
            worker.close()


@contextmanager
def busy_core() -> Iterator[None]:
    """Another program has work for the last CPU all the time."""
    cpu = max(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        try:
            yield
        finally:
            other.kill()


def compile_minilm(folder: Path) -> Path:
    import pocketformer as pf
    from bench.models import read_models

    path = folder / "minilm.pf"
    pf.compile(read_models()["minilm-l6"].source(), dims={"batch": 1, "seq": 128}).save(path)
    return path


def compile_loops(folder: Path, shared: bool) -> Path:
    """A model of LOOPS kernels, each a loop of next to no work, shared by threads or not."""
    from tvm import relax
    from tvm.tirx.script.builder import ir as T

    from pocketformer import targets
    from pocketformer.compiler.bundle import Bundle
    from pocketformer.compiler.link import Linker
    from pocketformer.compiler.manifest import Manifest
    from pocketformer.compiler.manifest_records import Entry
    from pocketformer.compiler.model import TensorSpec
    from pocketformer.compiler.pool import pool_objects
    from pocketformer.schedules.cpu.kernel import parallel_loop, prim_func

    with prim_func("step") as function:
        x, y = (function.argument(name, (16, 16)) for name in "xy")
        with parallel_loop(16, shared) as i:
            T.buffer_store(y, x[i, 0] + T.float32(1), [i, 0])
    builder = relax.BlockBuilder()
    step = builder.add_func(function.func, "step")
    kind = relax.TensorType([16, 16], "float32")
    given = relax.Var("x", kind)
    with builder.function("main", [given], attrs={"num_input": 1}):
        value: Any = given
        for _ in range(LOOPS):
            value = builder.emit(relax.call_tir(step, [value], out_ty=kind))
        builder.emit_func_output(relax.Tuple([value]))
    target = targets.load("host")
    spec = TensorSpec("x", (16, 16), "float32")
    manifest = Manifest.describe(
        name="loops", target=target, recipe="float32", inputs=(spec,),
        outputs=(TensorSpec("y", (16, 16), "float32"),), dims={},
        entries=(Entry("main", {}, ()),))
    library, path = folder / "model.so", folder / f"{'shared' if shared else 'serial'}.pf"
    executable = relax.build(builder.get(), target.tvm())
    executable.export_library(str(library), fcompile=Linker(target, also=pool_objects(target)))
    Bundle.create(library, {}, manifest).save(path)
    return path


def table(rows: Sequence[Row]) -> str:
    lines = [["", *ENGINES], ["---"] * (len(ENGINES) + 1)]
    lines += [[title, *(f"{figure:.2f}" for figure in figures)] for title, figures in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
