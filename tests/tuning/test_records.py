"""Which record is followed: of this processor and TVM, legal, measured, confirmed, the fastest."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketformer import __version__, targets
from pocketformer.compiler.errors import BadRecords
from pocketformer.compiler.tuning.choices import choose
from pocketformer.compiler.tuning.cost_model import CostModel
from pocketformer.compiler.tuning.points import points_of
from pocketformer.compiler.tuning.record import DeviceNote, decode_record, encode_record
from pocketformer.compiler.tuning.record_file import RecordFile
from pocketformer.compiler.tuning.records import Records, core_of, unfit
from pocketformer.compiler.tuning.survey import Use
from pocketformer.compiler.tuning.transfer import nearest_points
from pocketformer.schedules.workloads import (
    Attention,
    Linear,
    QuantizedLinear,
    Softmax,
    WeightOnlyLinear,
)
from tests.tuning.examples import HOST, LAYER, record

PIXEL = targets.load("pixel8")


def best(*records, workload=LAYER):
    return next(iter(Records(records).fitting(workload, HOST)), None)


def test_the_fastest_is_the_best():
    slow, fast = record(1), record(2, median_us=50.0)
    assert best(slow, fast) == fast
    assert Records((slow, fast)).fitting(LAYER, HOST) == [fast, slow]
    assert fast.gain == pytest.approx(2.4)


def test_speed_is_told_against_the_default_of_the_same_run():
    throttled, cool = record(1, median_us=180.0, default_us=300.0), record(2)
    assert best(throttled, cool) == throttled


@pytest.mark.parametrize(("better", "worse"), [
    ({"median_us": 119.0}, {"source": "estimated", "device": None}),
    ({"median_us": 119.0, "confirmed": True}, {}),
    ({"median_us": 119.0}, {"threads": 7, "confirmed": True}),
    ({"median_us": 119.0, "pocketformer": __version__}, {"pocketformer": "0.0.1"}),
    ({"source": "estimated", "confirmed": False, "threads": 7}, {"tvm": "0.1"}),
], ids=["measured", "confirmed", "threads", "version", "TVM"])
def test_a_surer_record_wins_over_a_faster_one(better, worse):
    sure, doubtful = record(1, **better), record(2, **{"median_us": 50.0, **worse})
    assert best(doubtful, sure) == sure


def test_of_many_times_of_a_point_the_middle_one_counts():
    lucky = [record(1, median_us=us) for us in (60.0, 110.0, 115.0)]
    steady = [record(2, median_us=us) for us in (100.0, 101.0)]
    records = Records((*lucky, *steady))
    assert [each.median_us for each in records.fitting(LAYER, HOST)] == [101.0, 110.0]


@pytest.mark.parametrize(("other", "why"), [
    ({"core": "znver1"}, "of znver1, not of " + core_of(HOST)),
    ({"tvm": "0.1"}, "of TVM 0.1, this is "),
    ({"device": DeviceNote("phone", "cortex-a76", emulated=True)}, "timed on an emulator"),
    ({"median_us": None, "default_us": None, "error": "signal 11"}, "the point failed"),
])
def test_a_record_of_elsewhere_is_not_used_and_says_why(other, why):
    foreign = record(1, **other)
    assert best(foreign) is None
    assert why in unfit(foreign, core_of(HOST))
    assert unfit(record(1), core_of(HOST)) == ""


def test_a_point_that_is_not_of_the_space_is_not_used():
    point = points_of(LAYER, HOST)[1]
    for wrong in (replace(point, rows=999), points_of(LAYER, PIXEL)[0]):
        assert best(record(point=wrong, median_us=1.0)) is None
    assert best(record(point=point)) is not None


def test_workloads_that_differ_only_in_scale_share_records():
    attention = Attention(1, 64, 64, 4, 4, 32, 32, 0.25)
    known = record(0, workload=attention)
    assert best(known, workload=replace(attention, scale=0.5)) == known
    assert best(known, workload=replace(attention, causal=True)) is None


def test_layers_of_the_same_sizes_do_not_share_records():
    integers, weights = QuantizedLinear(8, 64, 64), WeightOnlyLinear(8, 64, 64, bits=8)
    known = record(0, workload=integers)
    assert best(known, workload=integers) == known
    assert best(known, workload=weights) is None


def test_a_point_has_a_record_for_each_size():
    layer = Linear(None, 1536, 384)
    small, large = (
        record(0, workload=layer, sizes={"m": m}, median_us=us) for m, us in ((8, 9.0), (64, 50.0))
    )
    assert Records((large, small)).fitting(layer, HOST) == [small, large]


def test_a_point_failed_where_it_never_ran_at_that_size():
    layer, core = Linear(None, 1536, 384), core_of(HOST)
    ran = record(0, workload=layer, sizes={"m": 8})
    broken = {"median_us": None, "default_us": None, "error": "signal 11"}
    crashed = replace(ran, **broken, sizes={"m": 64})
    assert Records((ran, crashed)).failed(layer, core) == {ran.point}
    assert Records((ran, crashed, replace(ran, sizes={"m": 64}))).failed(layer, core) == set()
    for elsewhere in (replace(crashed, core="znver1"), replace(crashed, tvm="0.1")):
        assert Records((ran, elsewhere)).failed(layer, core) == set()


def test_a_level_asks_for_the_records_of_a_core_by_its_name():
    level = targets.load("arm64-android").variants[1]       # its own core is nobody's
    there = record(point=points_of(LAYER, level)[1], core="cortex-x3")
    assert Records((there,)).fitting(LAYER, level) == []
    assert Records((there,)).fitting(LAYER, level, core="cortex-x3") == [there]


def test_a_record_is_compared_with_one_default_point():
    default, other = points_of(LAYER, HOST)[:2]
    ours, older, theirs = (record(2, default=each) for each in (default, None, other))
    assert Records((theirs,)).fitting(LAYER, HOST) == []
    assert len(Records((ours, older, theirs)).fitting(LAYER, HOST)) == 2
    assert decode_record(encode_record(ours), "it") == ours


SOME = [
    record(point, median_us=us, confirmed=confirmed, threads=threads)
    for point in (1, 2) for us in (100.0, 110.0) for confirmed in (False, True)
    for threads in (1, 2)
]


@settings(deadline=None)
@given(st.permutations(SOME))
def test_the_order_of_the_files_does_not_matter(records):
    assert Records(tuple(records)).fitting(LAYER, HOST) == Records(tuple(SOME)).fitting(LAYER, HOST)


def test_records_are_read_from_several_files_and_know_theirs(tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, file in enumerate(files, 1):
        RecordFile(file).append([record(number)])
    files[1].write_text(files[1].read_text() + '{"workload": {}}\n')
    records = Records.load(files)
    assert [records.origin(each) for each in records] == list(map(str, files))
    assert records.origin(record(1)) == ""
    (skipped,) = records.skipped
    assert (skipped.file, skipped.number) == (str(files[1]), 2)
    assert skipped.reason == "the record lacks the field 'point'"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from(["Gemm", "Attention", "measured", 10**400, "x" * 300, 1e-300, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.data(), ANYTHING)
def test_a_record_with_anything_in_a_field_is_a_record_or_refused(data, value):
    fields = json.loads(encode_record(record(1)))
    place = fields
    while True:
        name = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[name], dict) or not place[name] or data.draw(st.booleans()):
            break
        place = place[name]
    place[name] = value
    try:
        read = decode_record(json.dumps(fields), "it")
    except BadRecords:
        return
    assert decode_record(encode_record(read), "it") == read
    choices = choose([Use("main", read.workload, (), "w")], [HOST], Records((read, record(2))))
    CostModel().learn([read], read.core)
    nearest_points(LAYER, points_of(LAYER, HOST)[:9], [read], read.core)
    json.dumps([choice.told for level in choices.levels.values() for choice in level.values()])


@pytest.mark.parametrize(("wrong", "why"), [
    ({"median_us": 0.0}, "needs times from 0.001 to"),
    ({"default_us": None}, "needs times from 0.001 to"),
    ({"median_us": 1e-300}, "needs times from 0.001 to"),
    ({"default_us": 1.7e308}, "needs times from 0.001 to"),
    ({"spread": -0.1}, "runs and spread"),
    ({"runs": 10**400}, "runs and spread"),
    ({"source": "dreamt"}, "not measured or estimated"),
    ({"threads": 0}, "at least 1"),
    ({"sizes": {"m": 0}}, "at least 1"),
    ({"sizes": {"m\x1b[2J": 1}}, "not printable"),
    ({"sizes": {"m": 3}}, "'m' is no size that the workload leaves open"),
    ({"workload": Softmax(None, 8), "sizes": {"foo": 3}}, "'foo' is no size"),
    ({"point": replace(points_of(LAYER, HOST)[1], rows=-4)}, "rows is at least 0"),
    ({"point": replace(points_of(LAYER, HOST)[1], rows=10**400)}, "at most 2147483647"),
    ({"default": replace(points_of(LAYER, HOST)[0], k_block=-1)}, "k_block is at least 0"),
    ({"core": "\x1b[2J"}, "not printable"),
    ({"tvm": "1" * 300}, "too long"),
])
def test_what_cannot_have_been_measured_is_no_record(wrong, why):
    with pytest.raises(BadRecords, match=why):
        record(**wrong)


def test_what_a_device_said_is_cut_to_fit_a_line():
    crashed = record(1, median_us=None, default_us=None, error="a" * 100_000)
    read = decode_record(encode_record(crashed), "it")
    assert set(read.error) == {"a"}
    assert 0 < len(read.error) < 10_000
