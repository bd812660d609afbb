"""MiniLM's kernels timed point after point, through the builders and devices that tuning has."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.models import read_models
from bench.replay import BATCH, Table, default_of
from pocketformer.compiler.errors import DeviceFailed
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.progress import silent
from pocketformer.compiler.tuning.builder import LocalBuilders
from pocketformer.compiler.tuning.devices import HOST, Devices
from pocketformer.compiler.tuning.flow import Flow, Proposal
from pocketformer.compiler.tuning.options import Options
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.prepare import Source, prepare
from pocketformer.compiler.tuning.record_file import RecordFile
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.scheduler import RACE_SECONDS
from pocketformer.compiler.tuning.search import TaskSearch
from pocketformer.compiler.tuning.task_state import TaskState

MODEL, SIZES = "minilm-l6", {"batch": 1, "seq": 128}
BUILD_S = 120.0
TOP = 28      # points of a task whose order must not be luck


class Sweep:
    """At most `most` random points of each task whose name begins with `only`, and their records.

    `file` keeps what was timed, so that the same sweep goes on where it was interrupted; `seconds`
    are those that a batch is measured for.
    """

    def __init__(
        self, file: Path, threads: int | None, seconds: float, most: int, only: str = ""
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self._seconds = RecordFile(file), seconds
        source = Source.load(read_models()[MODEL].source(), HOST, None, SIZES)
        self._ready = prepare(source, Options(threads=threads, records=file), silent)
        known = Records.load(file) if file.exists() else Records()
        self._states = [*self._begin(most, only, known)]
        self._builders = LocalBuilders(len(cpus()), BUILD_S)
        self._devices = Devices(HOST, self._builders.submit, threads=threads)

    def close(self) -> None:
        self._devices.close()
        self._builders.close()

    def run(self) -> list[tuple[float, int]]:
        """Time what is not yet known; when each batch was done, in seconds, and its trials."""
        flow, batches = Flow(self._builders, self._devices, lambda: None), self._batches()
        times: list[tuple[float, int]] = []
        for outcome in flow.run(lambda: next(batches, None)):
            batch = outcome.proposal
            if outcome.measured is None:
                print(f"{batch.state.task.key}: {outcome.trouble}", file=sys.stderr)
                continue
            self._file.append(self._ready.setting.records(batch.job, outcome.measured))
            times.append((time.monotonic(), len(batch.trials)))
            print(f"{sum(count for _, count in times)} trials", end="\r", file=sys.stderr)
        return times

    def confirm(self) -> None:
        """Time the best of each task for longer, until no lucky timing is among the best TOP.

        Raises DeviceFailed.
        """
        flow = Flow(self._builders, self._devices, lambda: None)
        asked: set[tuple[str, Any]] = set()
        while proposals := self._unconfirmed(asked):
            for outcome in flow.run(partial(next, iter(proposals), None)):
                job = outcome.proposal.job
                if outcome.measured is None:
                    raise DeviceFailed(outcome.trouble)
                self._file.append(self._ready.setting.records(job, outcome.measured, True))
                print(f"{len(asked)} confirmed", end="\r", file=sys.stderr)

    def race(
        self, races: Mapping[str, Sequence[Any]], seconds: float
    ) -> dict[str, dict[Any, float]]:
        """Time the points under each task's name in one run against its default: their gains.

        A point that fails has a gain of 0. Nothing of it is kept. Raises DeviceFailed.
        """
        states = {state.task.key: state for state in self._states}
        proposals = iter([
            Proposal(state, self._ready.job(state.task, (state.default, *points)), seconds)
            for name, points in races.items() for state in (states[name],)
        ])
        flow = Flow(self._builders, self._devices, lambda: None)
        gains: dict[str, dict[Any, float]] = {name: {} for name in races}
        for outcome in flow.run(lambda: next(proposals, None)):
            if outcome.measured is None:
                raise DeviceFailed(outcome.trouble)
            proposal, timings = outcome.proposal, outcome.measured.timings
            for point, timing in zip(proposal.job.points, timings, strict=True):
                gain = 0.0 if isinstance(timing, str) else 1 / timing.ratio
                gains[proposal.state.task.key][point] = gain
        return gains

    def tables(self) -> list[Table]:
        """What is known and has no error, each task's default first."""
        records = Records.load(self._file.path)
        tables = []
        for state in self._states:
            found = self._ready.known(state.task, records)
            found.sort(key=lambda record: record.confirmed)     # these count, where there are some
            points = {record.point: record for record in found if not record.error}
            if points:
                first = default_of(next(iter(points.values())), state.default)
                tables.append(Table(state.task.key, {first.point: first} | points))
        return tables

    def _begin(self, most: int, only: str, known: Records) -> Iterator[TaskState]:
        for task in self._ready.tasks:
            if task.key.startswith(only):
                default, *rest = points_of(task.workload, self._ready.target)
                random.Random(0).shuffle(rest)
                points: list[Any] = [default, *rest[:most]]
                search = TaskSearch(points, strategy="random")
                state = TaskState(task, points, search, 0.0, str)
                state.recall(self._ready.known(task, known))
                yield state

    def _unconfirmed(self, asked: set[tuple[str, Any]]) -> list[Proposal]:
        """Races of the best points that have none and were not `asked` for, which they are then."""
        tables = {table.name: table for table in self.tables()}
        proposals = []
        for state in self._states:
            key, records = state.task.key, tables[state.task.key].records.values()
            best = sorted(records, key=lambda record: -record.gain)[:TOP]
            lucky = [
                record.point for record in best
                if not (record.confirmed or record.point == state.default)
                and (key, record.point) not in asked
            ]
            asked.update((key, point) for point in lucky)
            for at in range(0, len(lucky), BATCH):
                points = (state.default, *lucky[at : at + BATCH])
                proposals.append(
                    Proposal(state, self._ready.job(state.task, points), RACE_SECONDS))
        return proposals

    def _batches(self) -> Iterator[Proposal]:
        """The tasks in turns, so that a sweep that is interrupted has something of each."""
        while states := [state for state in self._states if not state.search.exhausted]:
            for state in states:
                task, points = state.task, state.search.propose(BATCH)
                job = self._ready.job(task, (state.default, *points))
                yield Proposal(state, job, self._seconds)
