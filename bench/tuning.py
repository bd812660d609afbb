"""What tuning is worth, on MiniLM: a sweep of its spaces, searches replayed over it, rates.

    python -m bench.tuning sweep     time points of all tasks; goes on where it was interrupted
    python -m bench.tuning replay    curves of random search, cost model, cost model and transfer
    python -m bench.tuning rate      trials a minute on this machine over loopback RPC
    python -m bench.tuning model     the tuned bundle beside the untuned one, in one run
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.models import HERE, WORK, read_models
from bench.replay import (
    BATCH,
    TRIALS,
    Table,
    default_of,
    mean_gain,
    read_sweep,
    replay,
    trials_to,
    write_sweep,
)
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.progress import silent
from pocketformer.compiler.tuning.builder import LocalBuilders
from pocketformer.compiler.tuning.devices import Devices
from pocketformer.compiler.tuning.flow import Batch, Flow
from pocketformer.compiler.tuning.job import Job, cold_bytes
from pocketformer.compiler.tuning.options import Options
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.prepare import Prepared, Source, prepare
from pocketformer.compiler.tuning.records import RecordFile, Records
from pocketformer.compiler.tuning.search import TaskSearch
from pocketformer.compiler.tuning.task_state import TaskState

MODEL, SIZES = "minilm-l6", {"batch": 1, "seq": 128}
RESULTS = HERE / "results" / "tuning"
SWEEP = RESULTS / "sweep.jsonl.gz"
BUILD_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tuning", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sweep", "replay", "rate", "model"))
    parser.add_argument("--most", type=int, default=10**6, help="points of a task (default: all)")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a batch is measured")
    parser.add_argument("--threads", type=int, help="(default: all cores)")
    parser.add_argument("--sweep", type=Path, default=SWEEP, help="the file (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=512, help="for model")
    wanted = parser.parse_args()
    print(json.dumps(globals()[f"run_{wanted.what}"](wanted), indent=1))


def run_sweep(wanted: argparse.Namespace) -> dict[str, Any]:
    """Time at most `--most` random points of each task, and write the sweep."""
    kept = WORK / f"{wanted.sweep.name}.kept"     # plain lines, as they come
    with closing(_Swept(kept, wanted)) as swept:
        swept.run()
    tables = swept.tables()
    write_sweep(tables, wanted.sweep)
    return {table.name: {"points": len(table.records), "best": table.best} for table in tables}


def run_rate(wanted: argparse.Namespace) -> dict[str, Any]:
    """Trials a minute for the linear layers, from the second round of batches on."""
    file = WORK / "rate.jsonl"
    file.unlink(missing_ok=True)
    wanted.most = min(wanted.most, 10 * BATCH)
    with closing(_Swept(file, wanted, only="linear")) as swept:
        times = swept.run()
    skipped = len(cpus())
    trials = sum(count for _, count in times[skipped:])
    seconds = times[-1][0] - times[skipped - 1][0]
    return {"trials": trials, "seconds": seconds, "a minute": 60 * trials / seconds}


def run_replay(wanted: argparse.Namespace) -> dict[str, Any]:
    """Write the curves as replay.json and replay.png beside the sweep."""
    tables = [table for table in read_sweep(wanted.sweep) if len(table.records) > TRIALS]
    curves = replay(tables, wanted.seeds)
    means = {strategy: mean_gain(found) for strategy, found in curves.items()}
    half = trials_to(means["model"][-1], means["transfer"])
    result = {
        "tasks": {table.name: {"points": len(table.records), "best": table.best}
                  for table in tables},
        "seeds": wanted.seeds,
        "mean gain": {strategy: {at: found[at - 1] for at in (8, 16, 32, TRIALS)}
                      for strategy, found in means.items()},
        "best possible": sum(table.best for table in tables) / len(tables),
        "transfer reaches the model's best after": half,
        "each task's gain": {
            strategy: {table.name: sorted(seed[table.name][-1] for seed in found)
                       for table in tables}
            for strategy, found in curves.items()},
        "curves": means,
    }
    output = wanted.sweep.parent
    (output / "replay.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(means, result["best possible"], output / "replay.png")
    return {key: value for key, value in result.items() if key != "curves"}


def run_model(wanted: argparse.Namespace) -> dict[str, Any]:
    """Tune from nothing, and let the two bundles take turns."""
    import pocketformer

    file = WORK / "model.jsonl"
    file.unlink(missing_ok=True)
    tuning = pocketformer.tune(
        read_models()[MODEL].source(), "host", dims=SIZES, records=file, trials=wanted.trials,
        threads=wanted.threads)
    (RESULTS / "model.json").write_text(json.dumps(tuning.to_dict(), indent=1) + "\n")
    return {"default_ms": tuning.default_ms, "tuned_ms": tuning.tuned_ms, "gain": tuning.gain,
            "trials": tuning.trials, "seconds": tuning.seconds}


class _Swept:
    """All tasks of the model, each with points that are still to be timed, through real parts."""

    def __init__(self, file: Path, wanted: argparse.Namespace, only: str = "") -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._wanted = RecordFile(file), wanted
        options = Options(threads=wanted.threads, records=file)
        source = Source.load(read_models()[MODEL].source(), "host", None, SIZES)
        self._ready: Prepared = prepare(source, options, silent)
        self._old = Records.load(file) if file.exists() else Records()
        self._states = [state for state in self._all() if state.task.key.startswith(only)]
        self._builders = LocalBuilders(len(cpus()), BUILD_S)
        self._devices = Devices("host", self._builders.submit, threads=wanted.threads)

    def close(self) -> None:
        self._devices.close()
        self._builders.close()

    def run(self) -> list[tuple[float, int]]:
        """Time everything; returns when each batch was done, and how many trials it had."""
        flow, times = Flow(self._builders, self._devices, lambda: None), []
        batches = self._batches()
        for outcome in flow.run(lambda: next(batches, None)):
            if outcome.measured is None:
                print(f"{outcome.batch.state.task.key}: {outcome.trouble}", file=sys.stderr)
                continue
            self._file.append(self._ready.setting.records(outcome.batch.job, outcome.measured))
            times.append((time.monotonic(), len(outcome.batch.trials)))
            print(f"{sum(count for _, count in times)} trials", end="\r", file=sys.stderr)
        return times

    def tables(self) -> list[Table]:
        """What was timed without an error, each task's default first."""
        records = Records.load(self._file.path)
        tables = []
        for state in self._states:
            found = [each for each in self._ready.setting.known(state.task, records)
                     if not each.error]
            if found:
                first = default_of(found[0], state.default)
                by_point = {record.point: record for record in reversed([first, *found])}
                tables.append(Table(state.task.key, {
                    each.point: each for each in reversed(by_point.values())}))
        return tables

    def _all(self) -> Iterator[TaskState]:
        for task in self._ready.tasks:
            default, *rest = points_of(task.workload, self._ready.target)
            random.Random(0).shuffle(rest)
            points = [default, *rest[:self._wanted.most]]
            state = TaskState(task, points, TaskSearch(points, strategy="random"), 0.0, str)
            state.recall(self._ready.setting.known(task, self._old))
            yield state

    def _batches(self) -> Iterator[Batch]:
        """The tasks in turns, so that what is interrupted has something of each."""
        ready = self._ready
        cold = cold_bytes(ready.target, ready.weight_bytes, ready.setting.threads)
        while states := [state for state in self._states if not state.search.exhausted]:
            for state in states:
                task, points = state.task, state.search.propose(BATCH)
                job = Job(ready.target, task.workload, task.sizes, (state.default, *points), cold)
                yield Batch(state, job, self._wanted.seconds)


def plot(means: dict[str, list[float]], possible: float, output: Path) -> None:
    """The curves of the mean gain over trials."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for strategy, found in means.items():
        axes.plot(range(1, TRIALS + 1), found, label=strategy)
    axes.axhline(possible, color="black", lw=1, ls=":", label="best of the sweep")
    axes.set(xlabel="trials of each task", ylabel="mean gain over the default points")
    axes.legend()
    figure.savefig(output, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
