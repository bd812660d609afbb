"""Searches replayed over a sweep: how fast each strategy finds the best points of known times.

A replay needs no device and has no noise of its own: the same sweep gives the same curves.
"""

from __future__ import annotations

import gzip
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pocketformer.compiler.tuning.cost_model import CostModel
from pocketformer.compiler.tuning.job import MOST_POINTS, name_at
from pocketformer.compiler.tuning.record import Record, decode_record, encode_record
from pocketformer.compiler.tuning.search import Strategy, TaskSearch
from pocketformer.compiler.tuning.task_state import FINALISTS
from pocketformer.compiler.tuning.transfer import start_points

BATCH, TRIALS = 7, 64
STRATEGIES = ("random", "model", "transfer")

Curve = list[float]      # after each trial the best gain so far over the default point


@dataclass(frozen=True)
class Table:
    """What a sweep measured of one task: records by point, that of the default first."""

    name: str
    records: Mapping[Any, Record]

    @property
    def default(self) -> Any:
        return next(iter(self.records))

    @property
    def best(self) -> float:
        """The gain of the best point."""
        return max(1.0, *(record.gain for record in self.records.values()))

    def time(self, point: Any) -> float | None:
        """Relative to the default's, None where the point failed."""
        gain = self.records[point].gain
        return 1 / gain if gain else None


def read_sweep(path: Path) -> list[Table]:
    """The tables of a file of records, gzipped or not; a task's first record is its default's."""
    open_ = gzip.open if path.suffix == ".gz" else open
    with open_(path, "rt", encoding="utf-8") as file:
        records = [decode_record(line, f"{path.name}:{at}") for at, line in enumerate(file, 1)]
    found: dict[str, dict[Any, Record]] = {}
    for record in records:
        task = name_at(record.workload, record.sizes.items())
        found.setdefault(task, {}).setdefault(record.point, record)
    return [Table(name, points) for name, points in found.items()]


def write_sweep(tables: Iterable[Table], path: Path) -> None:
    """Write what `read_sweep` reads; the same tables give the same bytes."""
    lines = [encode_record(record) for table in tables for record in table.records.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def replay(tables: Sequence[Table], seeds: int) -> dict[str, list[dict[str, Curve]]]:
    """For each strategy and seed the curves of all tasks.

    For "transfer" a task starts from what a search of the others found with the same trials, and
    knows nothing of its own.
    """
    curves: dict[str, list[dict[str, Curve]]] = {strategy: [] for strategy in STRATEGIES}
    for seed in range(seeds):
        chance = {table.name: searched(table, "random", seed) for table in tables}
        model = {table.name: searched(table, "model", seed) for table in tables}
        moved = {
            table.name: searched(
                table, "model", seed,
                [record for other in tables if other.name != table.name
                 for record in model[other.name]],
            )
            for table in tables
        }
        for strategy, found in zip(STRATEGIES, (chance, model, moved), strict=True):
            curves[strategy].append({name: curve(trials) for name, trials in found.items()})
    return curves


def searched(
    table: Table, strategy: Strategy, seed: int, known: Sequence[Record] = ()
) -> list[Record]:
    """The records in the order in which a search asks for them, TRIALS of them at most."""
    task, points = table.records[table.default], list(table.records)
    model = CostModel(seed)
    model.learn(known, task.core)
    start = start_points(task.workload, points, known, task.core, seed)
    search = TaskSearch(
        points,
        start=[] if strategy == "random" else start,
        strategy=strategy,
        model=model.of(task.workload, task.sizes),
        seed=seed,
    )
    tried: list[Any] = []
    while len(tried) < TRIALS and not search.exhausted:
        batch = search.propose(min(BATCH, TRIALS - len(tried)))
        search.told({point: table.time(point) for point in batch})
        tried += batch
    return [table.records[point] for point in tried]


def curve(trials: Sequence[Record]) -> Curve:
    """The best gain after each of TRIALS trials; a space that is exhausted stays at its best."""
    best, found = 1.0, []
    for record in trials:
        best = max(best, record.gain)
        found.append(best)
    return found + [best] * (TRIALS - len(found))


def racers(table: Table, seed: int) -> tuple[list[Any], list[Any]]:
    """The points that a search of the table takes to its last race, and those to race them with.

    These are the best of the whole table, as many as a job has room for: which of them is the best
    of all its single timings cannot tell.
    """
    found = sorted(searched(table, "model", seed), key=lambda record: -record.gain)
    own = [record.point for record in found if record.gain > 1][:FINALISTS]
    ranked = sorted(table.records, key=lambda point: -table.records[point].gain)
    others = [point for point in ranked if point not in own and point != table.default]
    return own, others[:MOST_POINTS - 1 - len(own)]


def mean_gain(curves: Sequence[Mapping[str, Curve]]) -> Curve:
    """The median over seeds of the mean gain over tasks, after each trial."""
    means = [
        [statistics.fmean(each[trial] for each in seed.values()) for trial in range(TRIALS)]
        for seed in curves
    ]
    return [statistics.median(column) for column in zip(*means, strict=True)]


def trials_to(gain: float, found: Curve) -> int | None:
    """After how many trials a curve reaches `gain`, None where it does not."""
    return next((at for at, each in enumerate(found, 1) if each >= gain), None)


def default_of(record: Record, point: Any) -> Record:
    """The record of the default `point`, as every batch has it for a reference."""
    return replace(record, point=point, median_us=record.default_us, confirmed=False)
