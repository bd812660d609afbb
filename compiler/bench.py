"""Race engines on one model: a process each, alternating blocks of calls, fixed threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from pocketformer.compiler.arrays import Arrays, read_arrays
from pocketformer.compiler.errors import BadInput
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.worker import Worker

if TYPE_CHECKING:
    from pocketformer.compiler.session import Session

BLOCK = 10    # calls until the next engine's turn: all engines meet the same moods of the machine


@dataclass(frozen=True)
class Contender:
    """An engine ("module:Class" of an Engine) with the model that it loads."""

    label: str
    engine: str
    path: Path
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What one engine took; `run_bytes` are its peak less what its imported libraries take."""

    label: str
    calls: int
    min_ms: float
    median_ms: float
    load_ms: float
    run_bytes: int | None       # None where it cannot be seen, on a device


@dataclass(frozen=True)
class DeviceResult(Result):
    """What a bundle took by the device's clock, and `round_trip_ms` more for each run from here."""

    round_trip_ms: float


def race(
    contenders: Sequence[Contender],
    inputs: Path,
    threads: int = 1,
    runs: int = 60,
    outputs: Path | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Time each contender on the arrays of the file `inputs` (.npz), `runs` calls each.

    With a folder `outputs`, also writes what each gave to LABEL.npz there.
    Raises PocketformerError where a contender cannot load or run its model.
    """
    report = progress or silent
    with ExitStack() as stack:
        racers = []
        for each in contenders:
            report(f"loading {each.label}", 0.0)
            racers.append(stack.enter_context(Racer(each, inputs, threads, outputs)))
        for done in range(0, runs, BLOCK):
            report(f"timing {len(racers)} engines in turn", done / runs)
            for racer in racers:
                racer.turn(min(BLOCK, runs - done))
        return [racer.result() for racer in racers]


class Racer:
    """A contender that is loaded and was called once, in a process that runs in its turns alone.

    Else the threads of its pool would spin on after a run, TVM's for 0.14 s, and slow the others.
    Raises PocketformerError or WorkerFailed where it cannot load or run its model.
    """

    def __init__(
        self, contender: Contender, inputs: Path, threads: int = 1, outputs: Path | None = None
    ) -> None:
        self.label = contender.label
        self.times: list[float] = []    # of each call that was timed, in milliseconds
        self._worker = Worker(contender.engine, threads)
        try:
            load = self._worker.ask(
                "load",
                path=str(contender.path),
                inputs=str(inputs),
                threads=threads,
                sizes=dict(contender.sizes),
            )
            first = self._worker.ask("time", calls=1)
            self._load_ms = load["seconds"] * 1e3
            (self.first_ms,) = first["result"]
            self._run_bytes = (
                max(load["peak_bytes"], first["peak_bytes"]) - self._worker.baseline_bytes
            )
            if outputs is not None:
                self._worker.ask("save", path=str(outputs / f"{self.label}.npz"))
        except BaseException:
            self._worker.close()
            raise
        self._worker.pause()

    def turn(self, calls: int, warm_ups: int = 1) -> None:
        """Time `calls` calls, after others that wake the core and fill the caches."""
        self._worker.resume()
        if warm_ups:
            self._worker.ask("time", calls=warm_ups)
        self.times.extend(self._worker.ask("time", calls=calls)["result"])
        self._worker.pause()

    def result(self) -> Result:
        """What the calls took. Raises StatisticsError where there was no turn."""
        return Result(
            self.label,
            len(self.times),
            min(self.times),
            statistics.median(self.times),
            self._load_ms,
            self._run_bytes,
        )

    def close(self) -> None:
        self._worker.close()

    def __enter__(self) -> Racer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def measure(
    session: Session, inputs: Arrays, runs: int, label: str, load_ms: float
) -> DeviceResult:
    """Time `session`, which is open on a device, on `inputs`. Raises as Session does."""
    ways = []
    for _ in range(3):
        start = time.perf_counter()
        session.run(inputs)
        ways.append((time.perf_counter() - start) * 1e3 - (session.last_ms or 0.0))
    taken = session.time(inputs, 1, runs)
    return DeviceResult(
        label, runs, min(taken), statistics.median(taken), load_ms, None, statistics.median(ways)
    )


def largest_error(ours: Path, theirs: Path) -> float:
    """The largest difference of two .npz files' arrays, relative to each array's largest value.

    Compares the outputs whose names both have, or all in order where no name is the same.
    Raises BadInput where they cannot be matched, or have different shapes.
    """
    return largest_difference(read_arrays(ours), read_arrays(theirs))


def largest_difference(ours: Arrays, theirs: Arrays) -> float:
    """`largest_error` of arrays at hand."""
    if common := ours.keys() & theirs.keys():
        return max(_error(ours[name], theirs[name]) for name in common)
    if len(ours) != len(theirs):
        raise BadInput(f"one engine gave {len(ours)} outputs, the other {len(theirs)}")
    return max(_error(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise BadInput(f"one engine gave the shape {ours.shape}, the other {theirs.shape}")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    scale = float(np.max(np.abs(b), initial=0.0)) or 1.0
    difference = np.where(a == b, 0.0, np.abs(a - b))    # equal infinities do not differ
    return float(np.max(np.nan_to_num(difference, nan=np.inf), initial=0.0) / scale)


def onnx_sizes(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """What the symbolic dimensions of the ONNX file at `path` are for these arrays."""
    graph = onnx.load(path, load_external_data=False).graph
    sizes = {}
    for item in graph.input:
        if item.name in inputs:
            axes = item.type.tensor_type.shape.dim
            for axis, size in zip(axes, inputs[item.name].shape, strict=True):
                if axis.dim_param:
                    sizes[axis.dim_param] = size
    return sizes
