"""Tuner: the steps of a tuning, top to bottom, and what is known after each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

from pocketformer.compiler.errors import DeviceFailed, DeviceLost, DeviceRefused
from pocketformer.compiler.machine import cpus
from pocketformer.compiler.tuning.builder import LocalBuilders
from pocketformer.compiler.tuning.cluster import ClusterBuilders
from pocketformer.compiler.tuning.cost_model import CostModel
from pocketformer.compiler.tuning.devices import Devices
from pocketformer.compiler.tuning.flow import Builders, Flow, Outcome
from pocketformer.compiler.tuning.given import shipped
from pocketformer.compiler.tuning.in_model import compare, slower
from pocketformer.compiler.tuning.options import RANDOM, Options
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.prepare import Source, opened, prepare
from pocketformer.compiler.tuning.record import Record
from pocketformer.compiler.tuning.record_file import RecordFile
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.result import Compared, Tuning
from pocketformer.compiler.tuning.scheduler import GIVEN_UP, Scheduler
from pocketformer.compiler.tuning.search import Strategy, TaskSearch
from pocketformer.compiler.tuning.status import Reporter, Watcher
from pocketformer.compiler.tuning.task_state import TaskState
from pocketformer.compiler.tuning.tasks import Task
from pocketformer.compiler.tuning.trace_search import TraceSearch
from pocketformer.compiler.tuning.transfer import FIRST, known_traces, transfer_points
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.workloads import Function

BUILD_S = 60.0       # for one batch; symbolic rows need code for every height
ENOUGH = "the search ended after {} of {} trials: no {}kernel gained any more, or has points left"
LOST = "{}: given up, since {} batches in a row could not be measured"
SAME = "the tuned model is the untuned one: what their times differ by is noise"


class Tuner:
    """A tuning of `source`: `run` does it, `result` tells what is known after it, or up to now.

    Everything that was measured is in the file of records before anything else happens with it.
    Raises a PocketformerError for what stands in the way.
    """

    def __init__(self, source: Source, options: Options, watcher: Watcher | None = None) -> None:
        self._options = options
        self._report = Reporter(watcher, options.trials)
        self._file = RecordFile(options.records)
        self._old = Records.load(options.records) if options.records.exists() else Records()
        self._model = None if options.strategy == RANDOM else CostModel(options.seed)
        self._ready = prepare(source, options, self._report)
        states = [self._state(task, known) for task, known in self._known()]
        self._scheduler = Scheduler(states, self._ready.job, options.trials)
        self._curve: list[tuple[int, float]] = []
        self._note_ratio()
        self._notes = dict.fromkeys(self._first_notes())
        self._followed: tuple[str, ...] = ()
        self._compared: tuple[Compared, ...] = ()
        self._finished = False

    def run(self) -> None:
        """Search, race the best, and compare the tuned model with the untuned one."""
        with closing(self._builders()) as builders, closing(self._devices(builders)) as devices:
            flow = Flow(builders, devices, self._report.tell)
            self._report.search(self._scheduler, devices)
            for outcome in flow.run(self._scheduler.propose):
                self._scheduler.told(self._record(outcome))
                self._note_ratio()
            self._notes |= dict.fromkeys(self._why_it_ended())
            self._report("racing the best points", 0.0)
            races = self._scheduler.races()
            for race in flow.run(lambda: next(races, None)):
                outcome = self._record(race, confirmed=True)
                if outcome.measured:
                    proposal = outcome.proposal
                    proposal.state.confirmed(proposal.trials, outcome.measured)
                    self._note_ratio()
        self._report.end_search()
        try:
            self._compare()
        except (DeviceLost, DeviceFailed, DeviceRefused) as error:      # what was found stays
            self._notes[f"the tuned model was not compared with the untuned one: {error}"] = None
        self._finished = True

    def result(self) -> Tuning:
        """What is known: all of it once `run` is through, else what it found until then."""
        ready, setting, records = self._ready, self._ready.setting, self._records()
        # Counted in the file: what interrupts may come between a record and its being told.
        points = ({record.point for record in ready.known(task, records)} for task in ready.tasks)
        found = Tuning(
            model=ready.source.model.name,
            target=setting.target,
            core=setting.core,
            device=setting.device,
            emulated=setting.emulated,
            threads=setting.threads,
            path=str(self._options.records),
            tasks=self._scheduler.statuses,
            followed=self._followed,
            compared=self._compared,
            curve=tuple(self._curve),
            trials=sum(map(len, points)),
            seconds=self._report.seconds,
            interrupted=not self._finished,
            notes=tuple(self._notes),
            records=records,
        )
        if not self._finished:
            return found
        return replace(found, curve=(*found.curve, (found.trials, 1 / found.kernel_gain)))

    def _note_ratio(self) -> None:
        self._curve.append((self._scheduler.trials, self._scheduler.ratio))

    def _builders(self) -> LocalBuilders | ClusterBuilders:
        if self._options.cluster:
            return ClusterBuilders(self._options.cluster, BUILD_S, self._heard)
        return LocalBuilders(len(cpus()), BUILD_S)

    def _heard(self, what: str, fraction: float) -> None:
        """Tell now, and in the end."""
        self._notes[what] = None
        self._report(what, fraction)

    def _devices(self, builders: Builders) -> Devices:
        options = self._options
        return Devices(
            options.device, builders.submit, options.token, options.timeout,
            self._ready.setting.threads, self._report.during("making the devices ready"),
        )

    def _known(self) -> Iterator[tuple[Task, list[Record]]]:
        """Each task with its trials of before; the cost model hears of all other records."""
        setting = self._ready.setting
        known = [(task, self._ready.known(task, self._old)) for task in self._ready.tasks]
        told = {id(record) for _, records in known for record in records}
        if self._model:
            others = (
                record for record in self._old
                if id(record) not in told and not isinstance(record.workload, Function)
            )
            self._model.learn(others, setting.core)
        yield from known

    def _state(self, task: Task, known: list[Record]) -> TaskState:
        """The search of `task`, with what is known from before."""
        ready = self._ready
        state = TaskState(
            task, points_of(task.workload, ready.target), self._search(task), ready.share(task),
            lambda point: pick(task.workload, ready.target, point).name,
        )
        state.recall(known)
        if isinstance(search := state.search, TraceSearch):
            assert isinstance(task.workload, Function)
            told = [*self._old, *shipped([ready.target])]
            traces = known_traces(task.workload, told, ready.setting.core)
            search.queue([each for each in traces if each not in search.results][:FIRST])
        return state

    def _search(self, task: Task) -> TaskSearch[Any] | TraceSearch:
        target, options = self._ready.target, self._options
        if isinstance(task.workload, Function):
            return TraceSearch(
                task.workload, target, learns=self._model is not None, seed=options.seed)
        core, known = self._ready.setting.core, [*self._old, *shipped([target])]
        return TaskSearch(
            points_of(task.workload, target),
            start=transfer_points(
                task.workload, target, known, core=core, seed=options.seed),
            strategy=cast(Strategy, options.strategy),     # Options has checked it
            model=self._model.of(task.workload, dict(task.sizes)) if self._model else None,
            seed=options.seed,
        )

    def _record(self, outcome: Outcome, confirmed: bool = False) -> Outcome:
        """Write what was measured to the file, and note what was not.

        What a device measured that is unlike the first is lost, as the outcome returned tells.
        """
        job, setting = outcome.proposal.job, self._ready.setting
        if outcome.measured:
            try:
                if outcome.measured.info and not self._options.here:
                    self._ready.require_alike(outcome.measured.info)
                records = setting.records(job, outcome.measured, confirmed)
            except DeviceRefused as error:
                outcome = replace(outcome, measured=None, trouble=str(error))
            else:
                self._file.append(records)
                return outcome
        self._notes[f"{outcome.proposal.state.task.key}: {outcome.trouble}"] = None
        if outcome.guilty:
            self._file.append(setting.failed(job, outcome.trouble))
        return outcome

    def _why_it_ended(self) -> Iterator[str]:
        """What to say of a search that ended before all trials were made."""
        lost = self._scheduler.given_up
        if (trials := self._scheduler.trials) < (wanted := self._options.trials):
            yield ENOUGH.format(trials, wanted, "other " * bool(lost))
        for key in lost:
            yield LOST.format(key, GIVEN_UP)

    def _records(self) -> Records:
        path = self._options.records
        return Records.load(path) if path.exists() else Records()

    def _compare(self) -> None:
        ready, options = self._ready, self._options
        tuned = ready.compile(self._records(), self._report)
        functions = {name: str(each) for name, each in ready.rest.named.items()}
        told = (
            each.workload or functions.get(each.kernel, each.kernel)
            for each in tuned.manifest.kernels if each.tuned
        )
        self._followed = tuple(dict.fromkeys(told))
        if not self._followed:
            self._notes[SAME] = None
        with opened([ready.default, tuned], options, self._report) as (before, after):
            self._compared = compare(before, after, ready.sizes, self._report)
            try:
                for slow in slower(before, after, ready.sizes, self._report):
                    self._notes[str(slow)] = None
            except (DeviceLost, DeviceFailed, DeviceRefused) as error:
                self._notes[f"kernels were not compared inside the models: {error}"] = None

    def _first_notes(self) -> Iterator[str]:
        """What a reader has to know before he believes the figures."""
        if self._ready.setting.emulated:
            yield "an emulator measured: its times say nothing about a phone, and are never used"
        if skipped := len(self._old.skipped):
            yield f"{skipped} lines of {self._options.records} are no records of this version"
        others = sum(not self._ready.setting.counts(record) for record in self._old)
        if others:
            yield (
                f"{others} records of {self._options.records} are of other devices, threads or "
                "versions; they stay, and are not counted as trials"
            )
