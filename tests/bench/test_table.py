"""What the commands of bench.arm print: tables of what was found, mistakes in one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.arm.table import markdown

RESULTS = Path(__file__).parents[2] / "bench" / "results"
RECORDS = sorted(RESULTS.glob("arm-*.json"))


@pytest.fixture
def record():
    return json.loads(RECORDS[0].read_text())


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_table_in_the_results_is_that_of_its_record(file):
    assert markdown(json.loads(file.read_text())) == file.with_suffix(".md").read_text()


def test_engine_that_could_not_run_says_why(record):
    record["engines"][-1] = {"label": "LiteRT", "missing": "its converter is not to be had"}
    assert "| LiteRT | its converter is not to be had |" in markdown(record)


def test_shares_of_the_kernels_add_up(record):
    kernels = markdown(record).partition("\nKernels of ")[2].partition("\nHottest")[0]
    shares = [float(share) for share in re.findall(r"\| (\d+\.\d)% \|", kernels)]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares) / 2)


def test_cycles_and_times_are_called_estimates(record):
    for section in markdown(record).split("\n\n"):
        if re.search(r"cycles|ms\b|[Mm]illiseconds", section) and not section.startswith("|"):
            assert "estimated, core-bound" in section


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "missing.onnx"], "missing.onnx"),
        (["--model", "model.pt"], "no .onnx file"),
        (["--target", "x86_64-linux", "minilm-l6"], "only 64-bit ARM is counted"),
        (["no-model"], "no model 'no-model'; there are minilm-l6"),
        (["--dim", "seq=8"], "--dim goes with --model"),
    ],
)
def test_mistake_is_one_sentence(arguments, sentence):
    done = subprocess.run(
        [sys.executable, "-m", "bench.arm", *arguments], capture_output=True, text=True,
        cwd=RESULTS.parents[1], check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
