"""compile(records=...): other kernels, never other results, and it says which and why."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import pocketformer as pf
from pocketformer import targets
from pocketformer.compiler.cli import app
from pocketformer.compiler.compatibility import choose_level
from pocketformer.compiler.tuning.given import shipped, unused
from pocketformer.compiler.tuning.record_file import RecordFile
from pocketformer.compiler.tuning.records import Records
from tests.compiler.recorded import random_records
from tests.encoder import encoder, inputs
from tests.numerics.check import assert_close, reference
from tests.numerics.tolerance import TOLERANCE

PROTO = encoder()
HOST = targets.load("host")
BUCKETS = {"seq": "8,16"}
FIXED = {"seq": 8}


@pytest.fixture(scope="module")
def plain() -> pf.Bundle:
    """With the default point of every kernel."""
    return pf.compile(PROTO, "host", dims=FIXED, records=())


@pytest.fixture(scope="module")
def found() -> Records:
    """Of this machine, at random points, at most 1.2 times as slow as the default."""
    return random_records(pf.load(PROTO, dims=FIXED), [HOST], seed=1)


@pytest.fixture(scope="module")
def fat() -> pf.Bundle:
    """For any x86-64, with buckets, at random points of every level."""
    target = targets.load("x86_64-linux")
    records = random_records(pf.load(PROTO, dims=BUCKETS), target.variants, seed=2)
    return pf.compile(PROTO, target, dims=BUCKETS, records=records)


@pytest.mark.parametrize("level", ["base", "avx512"])
@pytest.mark.parametrize("seq", [8, 11])
def test_random_records_change_no_results(fat, level, seq, monkeypatch):
    if level not in ("base", choose_level(fat.manifest)):
        pytest.skip(f"this machine cannot run {level}")
    monkeypatch.setenv("POCKETFORMER_LEVEL", level)
    session, given = pf.Session(fat), inputs(1, seq)
    assert_close(list(session.run(given).values()), reference(PROTO, given))
    tuned = {record.function for record in fat.manifest.kernels if record.tuned}
    assert tuned & {name for name, _, _ in session.profile(given, 1)[0]}


def test_random_records_change_no_results_of_half_precision():
    model, recipe = pf.load(PROTO, dims=FIXED), pf.BFloat16()
    records = random_records(model, [HOST], seed=3, recipe=recipe)
    bundle = pf.compile(PROTO, "host", dims=FIXED, recipe=recipe, records=records)
    assert any("bfloat16" in each.workload for each in bundle.manifest.kernels if each.tuned)
    given = inputs(1, 8)
    results = pf.Session(bundle).run(given).values()
    for found, expected in zip(results, reference(PROTO, given), strict=True):
        limit = TOLERANCE["bfloat16"] * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def test_records_put_no_weight_there_twice(fat, plain):
    assert fat.manifest.weights.count == plain.manifest.weights.count
    assert fat.manifest.weights.bytes <= 1.1 * plain.manifest.weights.bytes     # padded to panels


def test_records_that_do_not_fit_leave_the_bundle_as_it_is_and_are_told(plain, found, caplog):
    few = found.records[:5]
    strange = Records((
        *(replace(each, core="cortex-a53") for each in few),
        *(replace(each, tvm="0.1") for each in few[:2]),
    ))
    with caplog.at_level(logging.WARNING, "pocketformer.records"):
        bundle = pf.compile(PROTO, "host", dims=FIXED, records=strange)
    assert bundle.library.read_bytes() == plain.library.read_bytes()
    core = HOST.cores[0].mcpu
    assert [each.getMessage().split(": ")[1] for each in caplog.records] == [
        f"2 of TVM 0.1, this is {few[0].tvm}; 5 of cortex-a53, not of {core}"
    ]


def test_at_most_three_reasons_are_told(found):
    one = found.records[0]
    foreign = [replace(one, core=f"core{number}") for number in (*range(9), 3, 3, 5)]
    (said,) = unused(Records(tuple(foreign)), [one.workload], HOST.variants)
    core = HOST.cores[0].mcpu
    assert said.endswith(
        f": 1 of core0, not of {core}; 3 of core3, not of {core}; 2 of core5, not of {core}; "
        "6 for other reasons")


def test_without_records_those_that_are_shipped_for_the_processor_count(
    found, tmp_path, monkeypatch
):
    monkeypatch.setattr("pocketformer.compiler.tuning.given.SHIPPED", tmp_path)
    assert len(shipped(HOST.variants)) == 0
    core = HOST.cores[0].mcpu
    RecordFile(tmp_path / f"{core}.jsonl").append(found)
    other = replace(found.records[0], core="cortex-a53")
    RecordFile(tmp_path / "cortex-a53.jsonl").append([other])
    assert len(shipped(HOST.variants)) == len(found)
    assert len(shipped(targets.load("x86_64-linux").variants)) == len(found) + 1    # for many
    bundle = pf.compile(PROTO, "host", dims=FIXED)
    assert any(f"({core}.jsonl)" in record.tuned for record in bundle.manifest.kernels)


def test_explain_names_the_record(found, tmp_path):
    model, file = tmp_path / "model.onnx", tmp_path / "found.jsonl"
    model.write_bytes(PROTO.SerializeToString())
    RecordFile(file).append(found)
    with file.open("a") as lines:
        lines.write('{"workload": 1}\n')
    options = ["--dim", "seq=8", "--output", str(tmp_path / "out.pf"), "--records", str(file)]
    ran = CliRunner().invoke(app, ["compile", str(model), *options, "--explain"])
    assert ran.exit_code == 0, ran.output
    assert "tuned: " in ran.stdout
    assert "measured on " in ran.stdout
    assert "(found.jsonl)" in ran.stdout
    assert "note: 1 line not used by this version" in ran.stderr
    inspected = CliRunner().invoke(app, ["inspect", str(tmp_path / "out.pf"), "--json"]).stdout
    assert any("x the default" in kernel["tuned"] for kernel in json.loads(inspected)["kernels"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--records", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--records", "a.jsonl", "--no-records"], "exclude each other"),
    ],
)
def test_records_that_cannot_be_used_are_a_mistake_of_the_user_s(options, said, tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(PROTO.SerializeToString())
    ran = CliRunner().invoke(app, ["compile", str(model), *options])
    assert ran.exit_code == 2
    assert said in ran.stderr
    assert list(tmp_path.iterdir()) == [model]
