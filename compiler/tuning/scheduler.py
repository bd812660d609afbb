"""Which points of which task are measured next, and when enough is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pocketformer.compiler.tuning.budget import Budget
from pocketformer.compiler.tuning.candidates import layout_of
from pocketformer.compiler.tuning.choices import WORTHWHILE
from pocketformer.compiler.tuning.flow import Outcome, Proposal
from pocketformer.compiler.tuning.job import MOST_POINTS, Job
from pocketformer.compiler.tuning.result import TaskStatus
from pocketformer.compiler.tuning.task_state import TaskState
from pocketformer.compiler.tuning.tasks import Task

SECONDS = 1.0        # that a batch is measured at most
RACE_SECONDS = 4.0   # and the last race of a task's best points
GIVEN_UP = 2         # batches of a task that could not be measured, until it is left alone
OFFERED = 2          # points of a layout; the first in a space are its best guesses
MakeJob = Callable[[Task, Sequence[Any]], Job]


class Scheduler:
    """The tasks' searches and the budget that they share: at most `trials`, old ones included."""

    def __init__(self, states: Iterable[TaskState], make_job: MakeJob, trials: int) -> None:
        self._states = {state.task.key: state for state in states}
        self._make_job, self._most = make_job, trials
        self._spent = sum(state.status.trials for state in self._states.values())
        self._troubles = dict.fromkeys(self._states, 0)      # in a row
        self._heard: set[str] = set()       # tasks of whose proposals under way something came
        self._budget = Budget({key: state.share for key, state in self._states.items()})
        for key, state in self._states.items():
            for best in state.history(MOST_POINTS - 1):
                self._budget.told(key, best, state.search.left)
            if state.search.exhausted:
                self._budget.told(key, state.search.best[1], 0)

    @property
    def statuses(self) -> tuple[TaskStatus, ...]:
        """All tasks, the one with the largest share of the model's time first."""
        found = (state.status for state in self._states.values())
        return tuple(sorted(found, key=lambda status: -status.share))

    @property
    def trials(self) -> int:
        """How many were told, old ones included."""
        return sum(state.status.trials for state in self._states.values())

    @property
    def ratio(self) -> float:
        """The time of all the model's kernels with the best points, over the untuned time."""
        return 1 - sum(state.share * (1 - state.ratio) for state in self._states.values())

    @property
    def given_up(self) -> tuple[str, ...]:
        """The tasks that are left alone because no device could measure their last batches."""
        return tuple(key for key, count in self._troubles.items() if count >= GIVEN_UP)

    def propose(self) -> Proposal | None:
        """The next batch of trials; None when the budget is spent or nothing pays any more."""
        while self._spent < self._most and (key := self._budget.next_task()) is not None:
            state = self._states[key]
            points = state.search.propose(min(MOST_POINTS - 1, self._most - self._spent))
            if points:
                self._spent += len(points)
                return self._proposal(state, points, SECONDS)
            self._budget.told(key, state.search.best[1], 0)
        return None

    def races(self) -> Iterator[Proposal]:
        """For each task with promising points a longer measurement of these alone."""
        for state in self._states.values():
            if points := state.finalists():
                yield self._proposal(state, points, RACE_SECONDS)

    def told(self, outcome: Outcome) -> None:
        """Take in what came of a proposal, or of a part of it."""
        state, trials = outcome.proposal.state, outcome.proposal.trials
        key = state.task.key
        if outcome.measured:
            state.told(trials, outcome.measured)
            self._offer_layout(state)
        elif outcome.guilty:
            state.failed(trials)
        else:
            state.lost(trials)
            self._spent -= len(trials)
        if outcome.measured or outcome.guilty:
            self._heard.add(key)
        if outcome.is_last:
            self._end(key)

    def _end(self, key: str) -> None:
        """A proposal for a task is through, which may have brought nothing at all."""
        search = self._states[key].search
        if key in self._heard:
            self._heard.remove(key)
            self._troubles[key] = 0
            self._budget.told(key, search.best[1], search.left)
            return
        self._troubles[key] += 1
        self._budget.lost(key, 0 if self._troubles[key] >= GIVEN_UP else search.left)

    def _offer_layout(self, state: TaskState) -> None:
        """Let tasks that may read the same weights try the layout that is fast for `state`.

        Where they do not gain by it as well, a model that holds the weights once cannot take it.
        """
        point, ratio = state.search.best
        layout = layout_of(point)
        if ratio * WORTHWHILE > 1 or layout == layout_of(state.default):
            return
        for other in self._states.values():
            if other is not state and _weight(other.task) == _weight(state.task):
                other.search.queue([p for p in other.points if layout_of(p) == layout][:OFFERED])

    def _proposal(self, state: TaskState, points: Sequence[Any], seconds: float) -> Proposal:
        return Proposal(state, self._make_job(state.task, (state.default, *points)), seconds)


def _weight(task: Task) -> tuple[Any, ...]:
    """What two tasks with the same weights have in common."""
    return tuple(getattr(task.workload, name, None) for name in ("n", "k", "dtype", "bits"))
