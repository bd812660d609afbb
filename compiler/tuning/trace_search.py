"""Which traces of a function to measure next: MetaSchedule's evolutionary search, step by step."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

import tvm
from tvm import s_tir
from tvm.ir import IRModule

from pocketformer.compiler.errors import BadRecords
from pocketformer.schedules.cpu import pick
from pocketformer.schedules.cpu.replay import (
    MOST_LANES,
    MOST_UNROLLED,
    replay,
    text_of,
    trouble,
)
from pocketformer.schedules.cpu.trace import Trace

if TYPE_CHECKING:
    from pocketformer.schedules.workloads import Function
    from pocketformer.targets import Target

MOST = 256          # traces of a function; what there is of them has no end
BATCH = 7           # that are asked of MetaSchedule at once
POPULATION = 32     # of a generation, whose members are made and scored in some seconds
GENERATIONS = 2
INTRINSICS = "tvm.s_tir.tensor_intrin"


class TraceSearch:
    """A search like TaskSearch, whose points are traces; its first is our own schedule.

    Results are times relative to that one's, None for a trace that failed. With `learns`,
    candidates are chosen by MetaSchedule's cost model, else at random.
    """

    def __init__(self, workload: Function, target: Target, *, learns: bool, seed: int) -> None:
        self._default = Trace()
        self.results: dict[Trace, float | None] = {self._default: 1.0}
        self._workload, self._target = workload, target
        self._proposed: dict[Trace, Any] = {}     # with their candidates
        self._waiting: list[Trace] = []
        self._ended = False
        func = tvm.ir.load_json(workload.text)
        self._func = func
        plain = pick(workload, target).func.without_attr("global_symbol")
        self._strategy = _Strategy(func, target, "T.parallel" in plain.script(), learns, seed)
        self._strategy.learn([(s_tir.Schedule(IRModule({"main": plain})), 1.0)], keep=False)

    @property
    def left(self) -> int:
        """How many may still be proposed."""
        return len(self._waiting) + self._to_come

    @property
    def _to_come(self) -> int:
        """How many may still be asked of MetaSchedule."""
        return 0 if self._ended else max(0, MOST - len(self.results) - len(self._waiting))

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to propose."""
        return not self.left

    @property
    def best(self) -> tuple[Trace, float]:
        """The fastest trace so far and its time; our own schedule and 1.0 where none is faster."""
        known = ((point, time) for point, time in self.results.items() if time is not None)
        return min(known, key=lambda item: item[1])

    def queue(self, points: Iterable[Trace]) -> None:
        """Propose `points` next, where they fit: what did well for a function like this."""
        self._waiting += [each for each in points if self._is_new(each) and self._replay(each)]

    def propose(self, count: int) -> list[Trace]:
        """Up to `count` traces that were never proposed."""
        while len(self._waiting) < count and self._to_come:
            candidates = self._strategy.candidates()
            if candidates is None:
                self._ended = True
                break
            for sch in candidates:
                point = Trace(text_of(sch.trace))
                if self._is_new(point) and not trouble(point.steps):
                    self._proposed[point] = sch
                    self._waiting.append(point)
        chosen, self._waiting = self._waiting[:count], self._waiting[count:]
        return chosen

    def give_back(self, points: Iterable[Trace]) -> None:
        """Take back that `points` were proposed: nobody can tell anything about them yet."""
        self._waiting += [point for point in points if point not in self.results]

    def told(self, results: Mapping[Trace, float | None]) -> None:
        """Take in results, also of traces of an earlier run; those that do not fit are left out."""
        learned = []
        for point, time in results.items():
            sch = self._proposed.get(point) or self._replay(point)
            if sch is not None and point != self._default:
                self.results[point] = time
                learned.append((sch, time))
        self._waiting = [point for point in self._waiting if point not in self.results]
        self._strategy.learn(learned, keep=True)

    def _is_new(self, point: Trace) -> bool:
        return point not in self.results and point not in self._proposed

    def _replay(self, point: Trace) -> s_tir.Schedule | None:
        """The schedule of a trace that was not made here, None if it does not fit."""
        with suppress(BadRecords):
            self._proposed[point] = replay(self._func, point.steps)
            return self._proposed[point]
        return None


class _Strategy:
    """MetaSchedule's search and cost model for one function, without its builders and runners."""

    def __init__(
        self, func: Any, target: Target, shared: bool, learns: bool, seed: int
    ) -> None:
        with _without_intrinsics():
            from tvm.s_tir import meta_schedule as ms

            # It would print whole modules.
            logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)
            self._context = ms.TuneContext(
                mod=func,
                target=target.tvm(),
                space_generator=ms.space_generator.PostOrderApply(
                    sch_rules=list(_rules(ms, shared)),
                    postprocs="llvm",
                    mutator_probs="llvm",
                ),
                search_strategy=ms.search_strategy.EvolutionarySearch(
                    population_size=POPULATION, init_min_unmeasured=BATCH,
                    genetic_num_iters=GENERATIONS),
                num_threads=1,
                rand_state=seed + 1,
            )
        self._ms = ms
        self._model = self._learning() if learns else ms.cost_model.RandomModel(seed=seed)
        self._database = ms.database.MemoryDatabase()
        self._original = self._database.commit_workload(self._context.mod)
        self._begun = False

    def candidates(self) -> list[s_tir.Schedule] | None:
        """A batch of schedules, None when the search has ended or cannot treat the function."""
        try:
            if not self._begun:
                self._context.pre_tuning(
                    MOST, BATCH, database=self._database, cost_model=self._model)
                self._begun = True
            found = self._context.generate_measure_candidates()
            if found is None:
                return None
            # The search only counts them here, so that batches may overlap.
            untold = self._ms.runner.RunnerResult(None, "not measured yet")
            self._context.notify_runner_results(found, [untold] * len(found))
        except RuntimeError:        # TVM's; our own schedule remains
            return None
        return [candidate.sch for candidate in found]

    def learn(self, results: Sequence[tuple[s_tir.Schedule, float | None]], keep: bool) -> None:
        """Teach the cost model, and with `keep` let what is good have children."""
        ms = self._ms
        candidates = [ms.MeasureCandidate(sch, []) for sch, _ in results]
        measured = [
            ms.runner.RunnerResult(None, "it failed") if time is None
            else ms.runner.RunnerResult([time], None)
            for _, time in results
        ]
        self._model.update(self._context, candidates, measured)
        for sch, time in results if keep else ():
            if time is not None:
                self._database.commit_tuning_record(ms.database.TuningRecord(
                    sch.trace, self._original, [time], self._context.target, []))

    def _learning(self) -> Any:
        """XGBModel, for as many buffers as the function's schedules may have.

        A score is the sum over a candidate's buffers, so each round moves it by `eta` times their
        count, and leaves all bounds where that is more than two.
        """
        func = self._context.mod["main"]
        sch = s_tir.Schedule(func)
        blocks = len(sch.get_child_blocks(sch.get_sblock("root")))
        model = self._ms.cost_model.xgb_model
        return model.XGBModel(
            config=model.XGBConfig(eta=min(0.2, 1 / (2 * blocks)), nthread=1),
            num_warmup_samples=0,
            adaptive_training=False,
            verbose_eval=0,
        )


def _rules(ms: Any, shared: bool) -> Iterator[Any]:
    """Those that make the spaces; loops go to threads only where they are to be `shared`.

    Else, with little work, all that MetaSchedule finds takes longer than one thread does.
    """
    rules = ms.schedule_rule
    for rule in rules.ScheduleRule.create("llvm"):
        if isinstance(rule, rules.ParallelizeVectorizeUnroll) and not shared:
            yield rules.ParallelizeVectorizeUnroll(
                max_jobs_per_core=-1, max_vectorize_extent=MOST_LANES,
                unroll_max_steps=[0, 16, 64, MOST_UNROLLED], unroll_explicit=True,
            )
        # Some operators name rules of their own, which only other processors have.
        elif not isinstance(rule, rules.ApplyCustomRule):
            yield rule


@contextmanager
def _without_intrinsics() -> Iterator[None]:
    """Nothing is to be replaced by a processor's own instructions: importing them all takes most
    of a minute, and the rules named "llvm" know none."""
    known = INTRINSICS in sys.modules
    sys.modules.setdefault(INTRINSICS, ModuleType(INTRINSICS))
    try:
        yield
    finally:
        if not known:
            del sys.modules[INTRINSICS]
