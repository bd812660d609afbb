"""What is measured next, what a file's records spare, and what is told while it goes on."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from pocketformer import targets
from pocketformer.compiler.tuning.flow import Outcome
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.tuning.live import clock, headline, watching
from pocketformer.compiler.tuning.measure import Measured, Timing
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.recording import Setting
from pocketformer.compiler.tuning.scheduler import GIVEN_UP, Scheduler
from pocketformer.compiler.tuning.search import TaskSearch
from pocketformer.compiler.tuning.status import Status
from pocketformer.compiler.tuning.task_state import FINALISTS, TaskState
from pocketformer.compiler.tuning.tasks import Task
from pocketformer.schedules.workloads import Linear

TARGET = targets.load("raspberrypi5")
WIDE = Task(Linear(128, 1536, 384, True, "gelu", False, "float32"), (), 6)
LONG = Task(Linear(64, 1536, 384, True, "", False, "float32"), (), 6)
SETTING = Setting("raspberrypi5", "cortex-a76", 4, "a board", False)
DEFAULT = points_of(WIDE.workload, TARGET)[0]
SLOW, FAST = 1.25, 0.8


def state(task: Task, share: float, seed: int = 0) -> TaskState:
    points = points_of(task.workload, TARGET)
    search = TaskSearch(points, strategy="random", seed=seed)
    return TaskState(task, points, search, share, str)


def job(task: Task, points) -> Job:
    return Job(TARGET, task.workload, task.sizes, tuple(points))


def scheduler(*states: TaskState, trials: int = 100) -> Scheduler:
    return Scheduler(states, job, trials)


def measured(batch_job: Job, ratio_of, threads: int = 4) -> Measured:
    """As if the default point took 100 us and each other one `ratio_of` it of that."""
    ratios = [1.0, *map(ratio_of, batch_job.points[1:])]
    timings = tuple(
        each if isinstance(each, str) else Timing(100 * each, each, 0.01, 20) for each in ratios
    )
    return Measured(timings, threads, None)


def go(plan: Scheduler, ratio_of) -> list[Job]:
    """Measure all that `plan` proposes."""
    jobs = []
    while batch := plan.propose():
        plan.told(Outcome(batch, measured(batch.job, ratio_of)))
        jobs.append(batch.job)
    return jobs


# Batches


def test_no_more_trials_are_proposed_than_wanted():
    plan = scheduler(state(WIDE, 0.6), state(LONG, 0.2), trials=17)
    jobs = go(plan, lambda point: FAST)
    assert sum(len(each.points) - 1 for each in jobs) == plan.trials == 17


def test_batches_under_way_count_as_trials():
    plan = scheduler(state(WIDE, 0.6), trials=10)
    assert [len(plan.propose().trials), len(plan.propose().trials)] == [7, 3]
    assert plan.propose() is None


def test_the_default_point_is_every_batchs_reference_and_no_trial():
    (wide,) = states = [state(WIDE, 1.0)]
    for each in go(scheduler(*states, trials=30), lambda point: SLOW):
        assert each.points[0] == wide.default
        assert wide.default not in each.points[1:]


def test_a_search_ends_where_nothing_gains():
    plan = scheduler(state(WIDE, 1.0), trials=100_000)
    go(plan, lambda point: SLOW)
    assert plan.trials < 100


def test_a_task_that_no_device_can_measure_is_left_alone():
    plan = scheduler(wide := state(WIDE, 1.0))
    for _ in range(GIVEN_UP):
        plan.told(Outcome(plan.propose(), None, "the reference crashes"))
    assert plan.propose() is None
    assert plan.given_up == (WIDE.key,)
    assert plan.trials == 0
    assert list(wide.search.results) == [wide.default]


def test_trials_that_a_device_lost_come_again_but_only_once():
    plan = scheduler(wide := state(WIDE, 1.0), trials=14)
    lost = plan.propose()
    plan.told(Outcome(lost, None, "the device is gone"))
    jobs = go(plan, lambda point: SLOW)     # one that can be measured ends the trouble
    assert sum(len(each.points) - 1 for each in jobs) == plan.trials == 14
    wide.lost(lost.trials)
    assert not wide.search.results.keys() & wide.search.propose(len(wide.points))
    assert not set(lost.trials) & set(wide.search.propose(len(wide.points)))


def test_trouble_now_and_then_does_not_end_a_task():
    plan = scheduler(state(WIDE, 1.0), trials=70)
    for _ in range(GIVEN_UP + 1):
        plan.told(Outcome(plan.propose(), None, "the device is gone"))
        batch = plan.propose()
        plan.told(Outcome(batch, measured(batch.job, lambda point: FAST)))
    assert plan.propose() is not None


def test_a_batch_in_parts_is_one_batch_without_gain():
    whole, parts = (scheduler(state(WIDE, 1.0), trials=100_000) for _ in range(2))
    go(whole, lambda point: SLOW)
    while batch := parts.propose():
        for pair in list(batch.job.split())[1:]:
            part = replace(batch, job=pair)
            last = pair.points[1] == batch.trials[-1]
            told = Outcome(part, measured(pair, lambda point: SLOW), is_last=last)
            parts.told(told)
    assert parts.trials == whole.trials


def test_a_search_that_ended_is_not_taken_up_again():
    plan = scheduler(wide := state(WIDE, 1.0), trials=100_000)
    records = []
    while batch := plan.propose():
        told = measured(batch.job, lambda point: FAST)
        plan.told(Outcome(batch, told))
        records += SETTING.records(batch.job, told)
    again = state(WIDE, 1.0)
    again.recall(SETTING.known(WIDE, records, DEFAULT))
    assert wide.search.left == again.search.left > 0
    assert scheduler(again, trials=100_000).propose() is None


def test_a_new_point_that_is_better_than_those_that_raced_is_shown():
    plan = scheduler(wide := state(WIDE, 1.0))
    batch = plan.propose()
    plan.told(Outcome(batch, measured(batch.job, lambda point: FAST)))
    (race,) = plan.races()
    wide.confirmed(race.trials, measured(race.job, lambda point: 0.9))
    assert (wide.status.confirmed, wide.ratio) == (True, 0.9)
    batch = plan.propose()
    best = batch.trials[0]
    plan.told(Outcome(batch, measured(batch.job, lambda p: 0.7 if p == best else SLOW)))
    assert (wide.status.best, wide.status.confirmed, wide.ratio) == (str(best), False, 0.7)


def test_a_point_that_cannot_be_built_is_a_failed_trial():
    plan = scheduler(state(WIDE, 1.0), trials=1)
    plan.told(Outcome(plan.propose(), None, "LLVM crashes", guilty=True))
    (status,) = plan.statuses
    assert (status.trials, status.failed, status.gain) == (1, 1, 1.0)


def test_a_point_that_fails_alone_harms_no_other():
    plan = scheduler(state(WIDE, 1.0), trials=7)
    batch = plan.propose()
    bad = batch.trials[3]
    plan.told(Outcome(batch, measured(batch.job, lambda p: "crashed" if p == bad else FAST)))
    (status,) = plan.statuses
    assert (status.trials, status.failed) == (7, 1)
    assert status.gain == pytest.approx(1 / FAST)


def test_the_models_time_shrinks_by_each_tasks_share():
    plan = scheduler(state(WIDE, 0.5), state(LONG, 0.3), trials=7)
    batch = plan.propose()
    plan.told(Outcome(batch, measured(batch.job, lambda point: FAST)))
    assert batch.state.share == 0.5
    assert plan.ratio == pytest.approx(0.5 * FAST + 0.5)


def test_a_layout_that_gains_is_offered_to_tasks_with_the_same_weights():
    wide, long = state(WIDE, 0.5), state(LONG, 0.4)
    plan = scheduler(wide, long)
    batch = plan.propose()
    other = next(p for p in wide.points if p.layout != wide.default.layout)
    batch = replace(batch, job=job(WIDE, (wide.default, other)))
    plan.told(Outcome(batch, measured(batch.job, lambda point: FAST)))
    assert other.layout in [point.layout for point in long.search.propose(2)]


# The last race


def test_the_best_points_race_and_the_race_decides():
    plan = scheduler(wide := state(WIDE, 1.0), trials=21)
    ratios = {point: 0.9 + 0.01 * (place % 9) for place, point in enumerate(wide.points)}
    go(plan, ratios.__getitem__)
    (race,) = plan.races()
    assert len(race.trials) == FINALISTS
    assert max(map(ratios.get, race.trials)) <= sorted(
        value for point, value in ratios.items() if point in wide.search.results
    )[FINALISTS]
    slow, *_, fast = race.trials
    told = measured(race.job, lambda point: {slow: 1.1, fast: 0.95}.get(point, 1.0))
    wide.confirmed(race.trials, told)
    assert wide.status.best == str(fast)
    assert wide.status.gain == pytest.approx(1 / 0.95)
    assert wide.status.confirmed
    assert not list(plan.races())


def test_what_was_lucky_in_the_search_is_not_the_best_after_the_race():
    plan = scheduler(wide := state(WIDE, 1.0), trials=7)
    go(plan, lambda point: FAST)
    (race,) = plan.races()
    wide.confirmed(race.trials, measured(race.job, lambda point: SLOW))
    assert (wide.status.best, wide.status.gain, plan.ratio) == ("", 1.0, 1.0)


def test_without_a_point_that_gains_there_is_no_race():
    plan = scheduler(state(WIDE, 1.0), trials=7)
    go(plan, lambda point: SLOW)
    assert not list(plan.races())


# Records


def test_a_trial_that_a_record_tells_is_not_made_again():
    first = scheduler(wide := state(WIDE, 1.0), trials=7)
    batch = first.propose()
    fast = batch.trials[2]
    told = measured(batch.job, lambda p: "crashed" if p == batch.trials[0] else 0.9)
    race = job(WIDE, (wide.default, fast))
    records = SETTING.records(batch.job, told)
    records += SETTING.records(race, measured(race, lambda p: 0.85), confirmed=True)
    again = state(WIDE, 1.0)
    again.recall(SETTING.known(WIDE, records, DEFAULT))
    plan = scheduler(again, trials=14)
    assert plan.trials == 7
    assert not set(plan.propose().trials) & set(batch.trials)
    (status,) = plan.statuses
    assert (status.known, status.failed, status.best) == (7, 1, str(fast))
    assert status.gain == pytest.approx(1 / 0.85)
    assert status.default_us == pytest.approx(100)


def test_a_race_that_was_run_is_not_run_again():
    plan = scheduler(wide := state(WIDE, 1.0), trials=14)
    ratios = {point: 0.9 + 0.001 * place for place, point in enumerate(wide.points)}
    records = []
    while batch := plan.propose():
        told = measured(batch.job, ratios.__getitem__)
        plan.told(Outcome(batch, told))
        records += SETTING.records(batch.job, told)
    (race,) = plan.races()
    records += SETTING.records(race.job, measured(race.job, lambda p: 1.2), confirmed=True)
    again = state(WIDE, 1.0)
    again.recall(SETTING.known(WIDE, records, DEFAULT))
    assert not list(scheduler(again, trials=14).races())


@pytest.mark.parametrize("other", [
    {"core": "cortex-a55"}, {"threads": 1}, {"tvm": "0.1"}, {"pocketformer": "0.0"},
    {"source": "estimated"}, {"workload": LONG.workload},
    {"workload": replace(LONG.workload, m=None), "sizes": {"m": 64}},
    {"default": points_of(WIDE.workload, TARGET)[1]},
])
def test_records_of_anything_else_are_no_trials(other):
    batch = scheduler(state(WIDE, 1.0)).propose()
    records = SETTING.records(batch.job, measured(batch.job, lambda point: FAST))
    assert len(SETTING.known(WIDE, records, DEFAULT)) == 7
    changed = [replace(record, **other) for record in records]
    assert not SETTING.known(WIDE, changed, DEFAULT)


def test_an_emulators_records_are_marked():
    batch = scheduler(state(WIDE, 1.0)).propose()
    told = measured(batch.job, lambda point: FAST)
    records = replace(SETTING, emulated=True).records(batch.job, told)
    assert all(record.emulated for record in records)
    assert not SETTING.known(WIDE, records, DEFAULT)


# While it goes on


def test_the_headline_says_how_far_it_is():
    status = Status("searching", 0.0, (), 64, 512, 1.06, 80.4, 250.0)
    assert headline(status) == (
        "searching: 64 of 512 trials, kernels 1.060x as fast, 1:20, at most 4:10 left"
    )
    gone = replace(status, devices=(("pixel", "gone, waiting"),))
    assert headline(gone).endswith("no device answers")


def test_a_clock_has_hours_where_they_are_needed():
    assert [clock(59.6), clock(3599), clock(7384)] == ["1:00", "59:59", "2:03:04"]


def test_a_terminal_shows_the_tasks_and_the_devices():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with watching(console) as hear:
        plan = scheduler(state(WIDE, 0.5))
        hear(Status("searching", 0.0, plan.statuses, 0, 64, devices=(("a [board]", "free"),)))
    shown = console.file.getvalue()
    assert str(WIDE.workload) in shown
    assert "a [board]" in shown


def test_a_pipe_gets_a_line_a_step():
    console = Console(file=io.StringIO())
    with watching(console) as hear:
        for step in ("searching", "searching", "racing"):
            hear(Status(step, 0.0))
    assert len(console.file.getvalue().splitlines()) == 2
