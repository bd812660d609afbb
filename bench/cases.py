"""A case is a model at sizes with a number of threads: all engines are timed on it in turns."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import flops, machine, onnx_files, peak
from bench.baselines import pocketformer as ours
from bench.baselines.onnxruntime import ENGINE as REFERENCE
from bench.baselines.peer import Peer
from bench.models import WORK, BenchModel
from pocketformer.compiler.arrays import write_arrays
from pocketformer.compiler.bench import Contender, Racer, largest_error, onnx_sizes
from pocketformer.compiler.errors import PocketformerError
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.worker import Worker, WorkerFailed

Record = dict[str, Any]
CASES = WORK / "cases"
# Farther from onnxruntime than this, relative to the largest value, an engine computes something
# else. Some approximate functions: MNN is 1e-3 away. It is no measure of quality.
WRONG = {"float32": 1e-2, "bfloat16": 2e-1, "int8": 5e-1, "int8-dynamic": 5e-1}
MOST_CALLS = 20     # in a turn: all engines are to meet the same moods of the machine
SLOW_MS = 300       # a call that takes so long fills the caches and wakes the core by itself


@dataclass(frozen=True)
class Effort:
    """A turn lasts `turn_ms` or one call; `rounds` of turns, fewer where they take over `seconds`,
    but at least `least`.
    """

    name: str
    turn_ms: float
    rounds: int
    seconds: float
    least: int


FULL = Effort("full", turn_ms=250, rounds=10, seconds=120, least=3)
QUICK = Effort("quick", turn_ms=50, rounds=3, seconds=20, least=2)


@dataclass(frozen=True)
class Case:
    """A model at `sizes`, run by `threads` threads."""

    model: str
    sizes: Mapping[str, int]
    threads: int

    def __str__(self) -> str:
        sizes = ", ".join(f"{axis} {size}" for axis, size in self.sizes.items())
        return f"{self.model}, {sizes}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def path(self) -> Path:
        """Where it is kept once it is measured."""
        parts = [f"{axis}{size}" for axis, size in self.sizes.items()]
        return CASES / self.model / f"{'-'.join([*parts, f'threads{self.threads}'])}.json"

    def finished(self, peers: Sequence[Peer], effort: Effort, any_version: bool) -> bool:
        """Whether it was measured for all `peers`, at no less effort and with today's versions."""
        if not self.path.exists():
            return False
        record = json.loads(self.path.read_text())
        found = {engine["name"]: engine["versions"] for engine in record["engines"]}
        return record["effort"] in {FULL.name, effort.name} and all(
            peer.name in found and (any_version or found[peer.name] == peer.versions())
            for peer in peers
        )


def measure(
    case: Case, model: BenchModel, peers: Sequence[Peer], effort: Effort, step: Progress
) -> Record:
    """Time all `peers` on a case; what they refuse is told in their place. Keeps the record."""
    start = time.time()
    place = model.sized(case.sizes)
    inputs = place / "inputs.npz"
    write_arrays(inputs, model.arrays(case.sizes))
    step(f"{case}: exporting", 0.0)
    reference = _reference(model, case, inputs)
    with ExitStack() as stack:
        engines: list[Record] = []
        racers: dict[str, Racer] = {}
        for peer in peers:
            step(f"{case}: preparing {peer.label}", len(engines) / len(peers) / 2)
            engine: Record = {"name": peer.name, "label": peer.label,
                              "precision": peer.precision, "versions": peer.versions()}
            engines.append(engine)
            try:
                racer = stack.enter_context(_entered(peer, model, case, inputs, engine))
                engine["error"] = error = largest_error(place / f"{peer.label}.npz", reference)
                if error > WRONG[peer.precision]:
                    engine["refused"] = f"its result is wrong: {error:.1e} from onnxruntime's"
                    racer.close()
                else:
                    racers[peer.name] = racer
            except (PocketformerError, WorkerFailed) as error:
                engine["refused"] = str(error)
        _take_turns([*racers.values()], effort, lambda share: step(f"{case}: timing", share))
        for engine in engines:
            if timed := racers.get(engine["name"]):
                engine |= {k: v for k, v in asdict(timed.result()).items() if k != "label"}
    record = {
        "model": case.model, "sizes": dict(case.sizes), "threads": case.threads,
        "effort": effort.name, "operations": flops.operations(onnx_files.fixed(model, case.sizes)),
        "peaks": {each: peak.gflops(each, case.threads) for each in peak.PRECISIONS},
        "machine": machine.describe(), "engines": engines,
        "seconds": time.time() - start,
    }
    keep(case.path, record)
    return record


def prepare(case: Case, model: BenchModel, peers: Sequence[Peer], step: Progress) -> list[str]:
    """Make the files that `peers` load, but for ours: what compiling costs is a figure.

    Returns who refused.
    """
    refused = []
    for number, peer in enumerate(peers):
        step(f"{case}: preparing {peer.label}", number / len(peers))
        try:
            peer.check()
            if not isinstance(peer, ours.Ours):
                peer.file(model, case.sizes)
        except PocketformerError:
            refused.append(peer.label)
    return refused


def keep(path: Path, record: Record) -> None:
    """Write a record; an interruption leaves the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_files.made_anew(path, lambda part: part.write_text(json.dumps(record, indent=1) + "\n"))


def _reference(model: BenchModel, case: Case, inputs: Path) -> Path:
    """onnxruntime's outputs for `inputs`, from the file as exported."""
    output = inputs.with_name("reference.npz")
    plain = onnx_files.plain(model)
    with Worker(REFERENCE) as worker:
        worker.ask("load", path=str(plain), inputs=str(inputs), threads=1,
                   sizes=onnx_sizes(plain, model.arrays(case.sizes)))
        worker.ask("save", path=str(output))
    return output


def _entered(peer: Peer, model: BenchModel, case: Case, inputs: Path, engine: Record) -> Racer:
    """`peer`, loaded; `engine` is told the cost of compiling where it is ours."""
    peer.check()
    file = peer.file(model, case.sizes)
    if isinstance(peer, ours.Ours):
        engine["compiling"] = ours.cost(file)
    sizes = dict(case.sizes)
    if file.suffix == ".onnx":
        sizes = onnx_sizes(file, model.arrays(case.sizes))
    contender = Contender(peer.label, peer.engine, file, sizes)
    return Racer(contender, inputs, case.threads, inputs.parent)


def _take_turns(racers: Sequence[Racer], effort: Effort, tell: Any) -> None:
    """Let each racer run in turns of about `effort.turn_ms`, and tell the share that is done."""
    start = time.monotonic()
    for done in range(effort.rounds):
        spent = time.monotonic() - start
        if done >= effort.least and spent * (done + 1) / done > effort.seconds:
            return
        for number, racer in enumerate(racers):
            tell(0.5 + (done + number / len(racers)) / effort.rounds / 2)
            fastest = min(racer.times, default=racer.first_ms)
            calls = max(1, min(MOST_CALLS, round(effort.turn_ms / max(fastest, 1e-3))))
            racer.turn(calls, warm_ups=int(fastest < SLOW_MS))
