"""Records choose kernels; weights that several kernels read keep one layout."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketformer import targets
from pocketformer.compiler.tuning.candidates import layout_of
from pocketformer.compiler.tuning.choices import Choices, choose
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.record import DeviceNote, Record
from pocketformer.compiler.tuning.records import Records
from pocketformer.compiler.tuning.survey import Use
from pocketformer.schedules.workloads import Linear, Norm, Workload
from pocketformer.targets import Target
from tests.compiler.recorded import record

# A phone's processor, and a target for many that has levels.
PIXEL, ANY_PC = targets.load("pixel8"), targets.load("x86_64-linux")
ANY, SHORT, LONG, ROW = (Linear(m, 96, 64) for m in (None, 16, 128, 1))
NORM = Norm(128, 64, "layer", 1e-5)


def uses(*workloads: Workload, weight: str | None = "w") -> list[Use]:
    return [Use("main", each, (), weight if isinstance(each, Linear) else None)
            for each in workloads]


def chosen(
    workloads: list[Use], *records: Record, target: Target = PIXEL
) -> Choices:
    return choose(workloads, target.variants, Records(records))


def other(workload: Workload, target: Target = PIXEL, layout: bool = False, skip: int = 0):
    """A point that is not the default: in its layout, or with `layout` in another."""
    default, *rest = points_of(workload, target)
    fitting = [p for p in rest if (layout_of(p) == layout_of(default)) != layout]
    return fitting[skip]


def the_point(choices: Choices, workload: Workload, level: str = "base"):
    return choices.at(level).get(workload)


def test_the_fastest_point_is_taken():
    slow, fast = other(LONG), other(LONG, skip=1)
    choices = chosen(uses(LONG), record(LONG, slow, PIXEL, 0.9), record(LONG, fast, PIXEL, 0.8))
    assert the_point(choices, LONG) == fast
    core = PIXEL.cores[0].mcpu
    assert choices.told("base", str(LONG)) == (
        f"80 us, 1.25x the default, measured on {core} with {PIXEL.threads} threads")


def test_the_order_of_records_does_not_matter():
    found = [record(LONG, point, PIXEL, 0.9) for point in points_of(LONG, PIXEL)[1:6]]
    assert chosen(uses(LONG), *found) == chosen(uses(LONG), *found[::-1])


def test_less_than_two_percent_are_no_gain():
    assert not chosen(uses(LONG), record(LONG, other(LONG), PIXEL, 0.985)).at("base")


def test_an_estimate_has_to_promise_more():
    little = record(LONG, other(LONG), PIXEL, 0.965, source="estimated")
    assert not chosen(uses(LONG), little).at("base")
    assert chosen(uses(LONG), replace(little, median_us=94.0)).at("base")


def test_what_a_norm_adds_to_a_variance_does_not_matter_to_its_speed():
    point = other(NORM)
    choices = chosen(uses(replace(NORM, eps=1e-12)), record(NORM, point, PIXEL, 0.5))
    assert the_point(choices, replace(NORM, eps=1e-12)) == point


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"source": "estimated"}),
        ({}, {"threads": PIXEL.threads + 1}),
        ({"confirmed": True}, {}),
        ({}, {"pocketformer": "0.0.1"}),
    ],
    ids=["measured", "as many threads", "confirmed", "of this version"],
)
def test_a_record_that_is_surer_wins_over_a_faster_one(better, worse):
    slow, fast = other(LONG), other(LONG, skip=1)
    sure = record(LONG, slow, PIXEL, 0.9, **better)
    unsure = record(LONG, fast, PIXEL, 0.5, **worse)
    assert the_point(chosen(uses(LONG), unsure, sure), LONG) == slow
    assert the_point(chosen(uses(LONG), unsure), LONG) == fast


def test_the_last_race_of_a_search_tells_luck_from_speed():
    """Also of points in another layout, none of which came that far."""
    raced, lucky = other(LONG), other(LONG, layout=True)
    slower = record(LONG, raced, PIXEL, 1.01, confirmed=True)
    assert not chosen(uses(LONG), slower, record(LONG, lucky, PIXEL, 0.5)).at("base")
    faster = record(LONG, raced, PIXEL, 0.9, confirmed=True)
    choices = chosen(uses(LONG), faster, record(LONG, lucky, PIXEL, 0.5))
    assert the_point(choices, LONG) == raced


@pytest.mark.parametrize(
    "wrong",
    [
        {"core": "cortex-a53"},
        {"tvm": "0.1"},
        {"device": DeviceNote("qemu", PIXEL.cores[0].mcpu, emulated=True)},
        {"error": "it crashed", "median_us": None},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_record_that_does_not_fit_is_not_used(wrong):
    assert not chosen(uses(LONG), record(LONG, other(LONG), PIXEL, 0.5, **wrong)).levels


def test_a_point_that_is_none_of_the_space_is_not_used():
    strange = replace(other(LONG), rows=1000)
    assert not chosen(uses(LONG), record(LONG, strange, PIXEL, 0.5)).levels


def test_sizes_known_at_run_time_count_together():
    good, bad = other(ANY), other(ANY, skip=1)
    choices = chosen(
        uses(ANY),
        record(ANY, bad, PIXEL, 0.5, sizes={"m": 16}),
        record(ANY, bad, PIXEL, 1.3, sizes={"m": 128}),
        record(ANY, good, PIXEL, 0.8, sizes={"m": 16}),
        record(ANY, good, PIXEL, 0.9, sizes={"m": 128}),
    )
    assert the_point(choices, ANY) == good
    assert "at m=128 and m=16" in choices.told("base", str(ANY))


# Layouts


def test_a_layout_that_gains_for_all_readers_of_a_weight_is_taken_by_all():
    point = other(LONG, layout=True)
    choices = chosen(uses(ANY, LONG), record(LONG, point, PIXEL, 0.5))
    assert the_point(choices, LONG) == point
    assert layout_of(the_point(choices, ANY)) == layout_of(point)
    assert "shares its weight" in choices.told("base", str(ANY))


def test_a_layout_that_costs_the_other_readers_more_is_left():
    point = other(LONG, layout=True)
    at_home = other(LONG)
    choices = chosen(
        uses(SHORT, SHORT, LONG),
        record(LONG, point, PIXEL, 0.93),
        record(LONG, at_home, PIXEL, 0.95),
    )
    assert choices.at("base") == {LONG: at_home}


def test_a_layout_in_which_another_reader_is_slow_is_left():
    point = other(LONG, layout=True)
    same = next(each for each in points_of(ANY, PIXEL) if layout_of(each) == layout_of(point))
    gains = record(LONG, point, PIXEL, 0.5)
    slow = [record(ANY, same, PIXEL, 3.0, sizes={"m": m}) for m in (16, 64)]
    assert not chosen(uses(ANY, LONG), gains, *slow).at("base")
    unknown = chosen(uses(ANY, LONG), gains)
    assert the_point(unknown, ANY) == same


def test_a_point_that_failed_is_taken_for_no_reader():
    point = other(LONG, layout=True)
    alike = [each for each in points_of(ANY, PIXEL) if layout_of(each) == layout_of(point)]
    gains = record(LONG, point, PIXEL, 0.5)
    crashed = [record(ANY, each, PIXEL, 1.0, median_us=None, error="signal 11") for each in alike]
    assert the_point(chosen(uses(ANY, LONG), gains, crashed[0]), ANY) == alike[1]
    assert not chosen(uses(ANY, LONG), gains, *crashed).at("base")


def test_a_point_that_fails_at_one_size_is_not_taken_for_its_gain_at_another():
    point = other(ANY)
    gains = record(ANY, point, PIXEL, 0.5, sizes={"m": 16})
    assert the_point(chosen(uses(ANY), gains), ANY) == point
    failed = record(ANY, point, PIXEL, 1.0, sizes={"m": 64}, median_us=None, error="signal 11")
    assert not chosen(uses(ANY), gains, failed).at("base")


def test_other_weights_may_lie_otherwise():
    point = other(LONG, layout=True)
    two = [*uses(LONG), *uses(SHORT, weight="another")]
    choices = chosen(two, record(LONG, point, PIXEL, 0.93))
    assert choices.at("base") == {LONG: point}


def test_a_target_for_many_takes_a_point_that_no_processor_contradicts():
    levels = {target.level: target for target in ANY_PC.variants}
    good, bad = (other(LONG, levels["avx512"], skip=skip) for skip in (0, 1))
    choices = chosen(
        uses(LONG),
        record(LONG, good, ANY_PC, 0.9, core="znver4"),
        record(LONG, bad, ANY_PC, 0.5, core="znver4"),
        record(LONG, bad, ANY_PC, 1.2, core="skylake-avx512"),
        target=ANY_PC,
    )
    assert the_point(choices, LONG, "avx512") == good
    assert the_point(choices, LONG, "base") is None    # whose instructions are others


def test_for_many_a_measured_record_wins_over_an_estimate_for_another_processor():
    level = ANY_PC.variants[-1]
    sure, doubtful = other(LONG, level), other(LONG, level, skip=1)
    choices = chosen(
        uses(LONG),
        record(LONG, sure, ANY_PC, 0.9, core="znver4"),
        record(LONG, doubtful, ANY_PC, 0.5, core="skylake-avx512", source="estimated"),
        target=ANY_PC,
    )
    assert the_point(choices, LONG, level.level) == sure


def test_a_level_alone_takes_records_of_any_processor_that_runs_it():
    for level in ANY_PC.variants:
        point = other(LONG, level)
        choices = chosen(uses(LONG), record(LONG, point, ANY_PC, 0.5, core="znver4"), target=level)
        assert the_point(choices, LONG, level.level) == point


def test_all_levels_read_one_layout():
    top = ANY_PC.variants[-1]
    point = other(LONG, top, layout=True)
    choices = chosen(uses(LONG), record(LONG, point, ANY_PC, 0.5, core="znver4"), target=ANY_PC)
    layouts = {layout_of(the_point(choices, LONG, each.level)) for each in ANY_PC.variants}
    assert layouts == {layout_of(point)}


WORKLOADS = (ANY, SHORT, LONG, ROW, NORM)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), target=st.sampled_from([PIXEL, ANY_PC]))
def test_no_records_give_a_weight_two_layouts(data, target):
    variants = target.variants
    records = []
    for _ in range(data.draw(st.integers(1, 8))):
        level = data.draw(st.sampled_from(variants))
        workload = data.draw(st.sampled_from(WORKLOADS))
        point = data.draw(st.sampled_from(points_of(workload, level)))
        ratio = data.draw(st.floats(0.3, 1.5))
        records.append(record(workload, point, target, ratio))
    weights = data.draw(st.lists(st.sampled_from("abc"), min_size=5, max_size=5))
    called = [use for workload, weight in zip(WORKLOADS, weights, strict=True)
              for use in uses(workload, weight=weight)]
    choices = choose(called, variants, Records(tuple(records)))
    layouts = defaultdict(set)
    for use in called:
        for level in variants:
            default = points_of(use.workload, level)[0]
            taken = the_point(choices, use.workload, level.level) or default
            assert taken in points_of(use.workload, level)
            layouts[use.weight, layout_of(default)].add(layout_of(taken))
    assert all(len(each) == 1 for each in layouts.values())
