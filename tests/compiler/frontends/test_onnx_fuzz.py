"""No malformed ONNX file crashes the interpreter, hangs it or gives a traceback."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiler.frontends.onnx_cases import build
from tests.compiler.frontends.test_onnx_operators import ALL, OPSETS

MUTANTS = 250
FIXED_SEED = 20
ROOT = Path(__file__).parents[3]


def base_models() -> list[bytes]:
    """Models of a few operators each, so that a mutation seldom hides behind another fault."""
    models = []
    for theme, cases in ALL.items():
        for begin in range(0, len(cases), 5):
            proto, _ = build(cases[begin : begin + 5], OPSETS[theme])
            models.append(proto.SerializeToString())
    return models


@pytest.mark.parametrize("seed", [FIXED_SEED, random.SystemRandom().randrange(1 << 30)])
def test_mutated_models_are_imported_or_refused(seed):
    """In a process of its own: a segmentation fault is a failure like any other."""
    command = ["-m", "tests.compiler.frontends.fuzz_import", str(seed), str(MUTANTS)]
    run = subprocess.run(
        [sys.executable, *command], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, f"{command}\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
