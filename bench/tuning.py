"""What tuning is worth, on MiniLM: a sweep of its spaces, searches replayed over it, rates.

    python -m bench.tuning sweep     time the points of all tasks; goes on where it was interrupted
    python -m bench.tuning replay    curves of random search, cost model, cost model and transfer
    python -m bench.tuning best      what searches find beside the sweep's best, in one last race
    python -m bench.tuning rate      trials a minute on this machine over loopback RPC
    python -m bench.tuning model     the tuned bundle beside the untuned one, in one run
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.models import HERE, WORK, read_models
from bench.replay import (
    BATCH,
    TRIALS,
    Curve,
    Table,
    mean_gain,
    racers,
    read_sweep,
    replay,
    trials_to,
    write_sweep,
)
from bench.sweep import MODEL, SIZES, Sweep
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.tuning.scheduler import RACE_SECONDS, SECONDS

SWEEP = HERE / "results" / "tuning" / "sweep.jsonl.gz"
GEMM = "linear"      # with what the names of these tasks begin
NEAR = 0.97          # of the best that there is: as good as that
PLACES = (BATCH, 2 * BATCH, TRIALS // 2, TRIALS)    # of a curve, to print


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tuning", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--sweep", type=Path, default=SWEEP, metavar="FILE")
    parser.add_argument("--most", type=int, default=1 << 20, help="points of a task (default: all)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="that a batch is measured (%(default)s)")
    parser.add_argument("--threads", type=int, help="of the device (default: one a core)")
    parser.add_argument("--seeds", type=int, default=3, help="of replayed searches")
    parser.add_argument("--trials", type=int, default=512, help="of all tasks of the model")
    wanted = parser.parse_args()
    wanted.sweep.parent.mkdir(parents=True, exist_ok=True)
    print(json.dumps(WHAT[wanted.what](wanted), indent=1))


def sweep(wanted: argparse.Namespace) -> dict[str, Any]:
    """Time at most `--most` random points of each task, the best twice, and write the sweep."""
    kept = WORK / f"{wanted.sweep.stem}.kept"       # plain lines, as they come
    with closing(Sweep(kept, wanted.threads, wanted.seconds, wanted.most)) as swept:
        swept.run()
        swept.confirm()
        tables = swept.tables()
    write_sweep(tables, wanted.sweep)
    return {table.name: {"points": len(table.records), "best": table.best} for table in tables}


def rate(wanted: argparse.Namespace) -> dict[str, Any]:
    """Trials a minute for the linear layers, without those of the first builds."""
    file = WORK / "rate.jsonl"
    file.unlink(missing_ok=True)
    most = min(wanted.most, 8 * BATCH)
    with closing(Sweep(file, wanted.threads, wanted.seconds, most, GEMM)) as swept:
        times = swept.run()
    first = len(cpus())
    trials = sum(count for _, count in times[first:])
    seconds = times[-1][0] - times[first - 1][0]
    return {"trials": trials, "seconds": seconds, "trials a minute": 60 * trials / seconds}


def model(wanted: argparse.Namespace) -> dict[str, Any]:
    """Tune from nothing, and let the two bundles take turns; all of it beside the sweep."""
    import pocketformer

    records = WORK / "model.jsonl"
    records.unlink(missing_ok=True)
    tuning = pocketformer.tune(
        read_models()[MODEL].source(), "host", dims=SIZES, records=records,
        trials=wanted.trials, threads=wanted.threads)
    _write(wanted.sweep.with_name("model.json"), tuning.to_dict())
    return {
        name: getattr(tuning, name)
        for name in ("default_ms", "tuned_ms", "gain", "trials", "seconds")
    }


def replays(wanted: argparse.Namespace) -> dict[str, Any]:
    """Write the curves as replay.json and replay.png beside the sweep."""
    tables = read_sweep(wanted.sweep)
    curves = replay(tables, wanted.seeds)
    means = {strategy: mean_gain(found) for strategy, found in curves.items()}
    possible = fmean(table.best for table in tables)
    told = {
        "seeds": wanted.seeds,
        "mean gain after trials": {
            strategy: {trials: found[trials - 1] for trials in PLACES}
            for strategy, found in means.items()},
        "mean gain of the sweep": possible,
        "trials of transfer for the model's gain": trials_to(
            means["model"][-1], means["transfer"]),
        "tasks": {table.name: _found(table, curves) for table in tables},
    }
    _write(wanted.sweep.with_name("replay.json"), {**told, "curves": means})
    _plot(means, possible, wanted.sweep.with_name("replay.png"))
    return told


def best(wanted: argparse.Namespace) -> dict[str, Any]:
    """Race what a search takes to its last race with the best of the sweep, for each GEMM.

    A search finds the fastest of its own points, or the default where none is faster. The medians
    are over the seeds. Written as best.json beside the sweep.
    """
    tables = {each.name: each for each in read_sweep(wanted.sweep) if each.name.startswith(GEMM)}
    shares: dict[str, list[float]] = {name: [] for name in tables}
    gains: dict[str, list[float]] = {name: [] for name in tables}
    with closing(Sweep(WORK / "best.jsonl", wanted.threads, wanted.seconds, 0, GEMM)) as swept:
        for seed in range(wanted.seeds):
            points = {name: racers(table, seed) for name, table in tables.items()}
            raced = swept.race(
                {name: own + others for name, (own, others) in points.items()}, RACE_SECONDS)
            for name, gain in raced.items():
                gains[name].append(max([1.0, *(gain[point] for point in points[name][0])]))
                shares[name].append(gains[name][-1] / max(gain.values()))
    told = {
        name: {
            "points": len(tables[name].records),
            "gain of the found": median(gains[name]),
            "share of the best": median(shares[name]),
            "least share of the best": min(shares[name]),
            "within 3 %": median(shares[name]) >= NEAR,
        }
        for name in tables
    }
    _write(wanted.sweep.with_name("best.json"), {"seeds": wanted.seeds, "tasks": told})
    return told


def _found(table: Table, curves: Mapping[str, list[dict[str, Curve]]]) -> dict[str, Any]:
    """A task's best gain in the sweep, and what each strategy found of it: medians over seeds."""
    return {"points": len(table.records), "sweep": table.best} | {
        strategy: median(seed[table.name][-1] for seed in found)
        for strategy, found in curves.items()
    }


def _plot(means: Mapping[str, Curve], possible: float, output: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for strategy, found in means.items():
        axes.plot(range(1, TRIALS + 1), found, label=strategy)
    axes.axhline(possible, color="black", lw=1, ls=":", label="best of the sweep")
    axes.set(xlabel="trials of each task", ylabel="gain over default points, mean of the tasks")
    axes.legend()
    figure.savefig(output, dpi=150, metadata={"Software": None})


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


WHAT: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "sweep": sweep, "replay": replays, "best": best, "rate": rate, "model": model}

if __name__ == "__main__":
    main()
