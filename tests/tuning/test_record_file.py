"""Files of records: whatever happens to a writer or to its disk, whole lines stay, none is torn."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pocketformer.compiler.errors import BadRecords
from pocketformer.compiler.tuning.record import DeviceNote, encode_record
from pocketformer.compiler.tuning.record_file import (
    LONGEST,
    RecordFile,
    merge,
    prune,
    read_lines,
)
from pocketformer.compiler.tuning.records import Records
from tests.tuning.examples import record

APPENDING = [sys.executable, "-m", "tests.tuning.appending"]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@pytest.fixture
def file(tmp_path):
    return RecordFile(tmp_path / "r.jsonl")


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may become larger than `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def texts(file):
    return [line.text for line in read_lines(file.path)]


def test_what_was_appended_comes_back_in_its_order(file):
    file.append([record(1), record(2)])
    file.append([])
    file.append([record(3, median_us=None, default_us=None, error="it\ncrashed \x1b[2J\ud800")])
    assert Records.load(file.path).records[:2] == (record(1), record(2))
    assert Records.load(file.path).records[2].error == "it\ncrashed \x1b[2J\ud800"


def test_a_line_that_was_torn_anywhere_is_cut_by_the_next_append(file):
    line = encode_record(record(1)) + "\n"
    for end in [*range(1, len(line), 23), len(line) - 2]:
        file.path.write_text(line + line[:end])
        torn = Records.load(file.path)
        assert torn.records == (record(1),)
        assert [each.reason for each in torn.skipped] == ["its end is missing"]
        file.append([record(2)])
        assert file.path.read_text() == line + encode_record(record(2)) + "\n"


def test_a_last_line_without_its_end_is_kept_where_it_is_whole(file):
    file.path.write_text(encode_record(record(1)))
    file.append([record(2)])
    assert Records.load(file.path).records == (record(1), record(2))


def test_a_writer_that_is_killed_again_and_again_loses_and_doubles_nothing(file):
    command = [*APPENDING, "killed", str(file.path), "20"]
    subprocess.run(command, check=True, timeout=600, cwd=ROOT, env=ENVIRONMENT)
    before = len(Records.load(file.path))
    file.append([record(runs=before)])
    after = Records.load(file.path)
    assert after.skipped == ()
    assert [each.runs for each in after] == list(range(before + 1))
    assert before > 0


def test_two_writers_and_one_that_rewrites_lose_nothing(file):
    names, count = ("one", "two"), 60
    command = [*APPENDING, "together", str(file.path), str(count), *names]
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT) as writers:
        while writers.poll() is None:
            file.rewrite(merge)
            time.sleep(0.01)                    # nobody promises that locks are taken in turn
    assert writers.returncode == 0
    records = Records.load(file.path)
    assert records.skipped == ()
    for name in names:
        assert [each.runs for each in records if each.target == name] == list(range(count))


def test_a_full_disk_leaves_the_file_as_it_was(file):
    file.append([record(1)])
    before = file.path.read_bytes()
    with full_disk(len(before) + 700), pytest.raises(OSError, match=r"r\.jsonl") as full:
        file.append([record(2), record(3)])     # the first would still fit
    assert full.value.strerror
    assert file.path.read_bytes() == before
    with full_disk(100), pytest.raises(OSError, match=r"r\.jsonl"):
        file.rewrite(merge)
    assert file.path.read_bytes() == before
    assert os.listdir(file.path.parent) == ["r.jsonl"]
    file.append([record(2)])
    assert Records.load(file.path).records == (record(1), record(2))


def test_an_interrupted_append_leaves_the_file_as_it_was(file, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    file.append([record(1)])
    before = file.path.read_bytes()
    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.append([record(2)])
    assert file.path.read_bytes() == before


def test_a_record_that_no_line_holds_is_refused(file):
    with pytest.raises(BadRecords, match="takes 2"):
        file.append([record(device=DeviceNote("x" * 200_000, "znver4"))])
    assert not file.path.exists()


@pytest.mark.parametrize("content", [
    b"\x08\x07model\n" * 9, b"no records\n", b"\x00" * 100_000, b'{\n "a": 1\n}',
    b'[\n{"a": 1},\n{"a": 2}\n]\n',
])
def test_a_file_of_something_else_is_left_alone(file, content):
    file.path.write_bytes(content)
    for change in (lambda: file.append([record()]), lambda: file.rewrite(merge)):
        with pytest.raises(BadRecords, match="is no file of records"):
            change()
    assert file.path.read_bytes() == content


def test_only_a_file_can_hold_records(tmp_path):
    with pytest.raises(BadRecords, match="cannot be read: Is a directory"):
        list(read_lines(tmp_path))
    with pytest.raises(BadRecords, match="cannot be read: No such file"):
        list(read_lines(tmp_path / "none"))
    with pytest.raises(BadRecords, match="/dev/null is none"):
        RecordFile("/dev/null").append([record()])
    with pytest.raises(OSError, match="Is a directory"):
        RecordFile(tmp_path).append([record()])


@pytest.mark.parametrize(("line", "why"), [
    (b'{"a": "' + b"x" * LONGEST + b'"}', "longer than 65536 bytes"),
    (b"x" * 3 * LONGEST, "longer than 65536 bytes"),
    (b"[" * 60_000, "no JSON|too deep"),
    (b'{"workload":' * 5_000, "no JSON|too deep"),
    (b'{"workload":' + b'{"a":' * 900 + b"1" + b"}" * 901, "it|record"),
    (b"\xff\xfe", "is no text"),
    (b"\x00", "no JSON"),
    (b"[]", "no JSON object"),
    (b'{"tvm": 1, "tvm": 2}', "given twice"),
    (b'{"runs": ' + b"9" * 5000 + b"}", "no JSON|lacks"),
])
def test_a_hostile_line_is_told_and_hides_no_other(file, line, why):
    whole = encode_record(record()).encode()
    file.path.write_bytes(whole + b"\n\n" + line + b"\n" + whole + b"\r\n")
    records = Records.load(file.path)
    assert records.records == (record(), record())
    (skipped,) = records.skipped
    assert skipped.number == 3
    assert any(part in skipped.reason for part in why.split("|"))
    assert len(skipped.reason) < 300


def test_merging_keeps_each_line_once_in_its_order(file, tmp_path):
    other = RecordFile(tmp_path / "other.jsonl")
    file.append([record(1), record(2)])
    other.append([record(3), record(2), record(4)])
    newer = '{"workload": {"type": "Convolution"}, "point": {"template": "Winograd"}}'
    other.path.write_text(f"{other.path.read_text()}{newer}\nnoise\n{newer}\n")
    lines = [*read_lines(file.path), *read_lines(other.path)]
    merged = merge(lines)
    assert merged == [*map(encode_record, map(record, (1, 2, 3, 4))), newer]
    spaced = json.dumps(json.loads(encode_record(record(1))))
    file.path.write_text(f"{spaced}\n{encode_record(record(1))}\n")
    assert merge(read_lines(file.path)) == [spaced]


def test_pruning_keeps_the_best_points_of_each_task_and_one_failure_of_each(file):
    file.append([
        record(1, median_us=90.0), record(2, median_us=80.0), record(3, median_us=70.0),
        record(4, median_us=None, default_us=None, error="crashed"),
        record(1, median_us=95.0, core="znver1"), record(1, median_us=95.0, tvm="0.1"),
        record(4, median_us=None, default_us=None, error="crashed again"),
    ])
    file.path.write_text(file.path.read_text() + '{"of": "tomorrow"}\n')
    before = texts(file)
    file.rewrite(lambda lines: prune(lines, 2))
    assert texts(file) == [before[at] for at in (1, 2, 4, 5, 6, 7)]


def test_a_rewrite_keeps_permissions_and_links(file, tmp_path):
    file.append([record(1)])
    file.path.chmod(0o640)
    link = tmp_path / "link.jsonl"
    link.symlink_to(file.path)
    RecordFile(link).rewrite(lambda lines: [encode_record(record(2))])
    assert link.is_symlink()
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert Records.load(file.path).records == (record(2),)
