"""pocketformer_run on the emulated phone, where ARM's own instructions take the checksums."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pocketformer as pf
from pocketformer import runtime
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.device.emulator import run_program, set_up
from pocketformer.compiler.errors import SetUpFailed
from pocketformer.compiler.session import Session
from tests.encoder import encoder, inputs
from tests.runtime.bundles import resign

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run() -> Run:
    """Runs a program on the phone. Without apt or network its tests are left out, not in CI."""
    try:
        set_up()
    except SetUpFailed as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    program = runtime.build("arm64-linux").run
    return lambda *words, **options: run_program([program, *map(str, words)], **options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm")
    proto = encoder()
    pf.compile(proto, "arm64-linux", dims={"seq": "8,16"}).save(folder / "phone.pf")
    pf.compile(proto, "host").save(folder / "host.pf")
    return folder / "phone.pf"


@pytest.mark.parametrize("seq", [8, 11])
def test_a_phone_computes_what_this_machine_computes(
    seq: int, bundle: Path, run: Run, tmp_path: Path
) -> None:
    given = inputs(1, seq)
    words: list[object] = [bundle, "--output", tmp_path, "--runs", 1, "--json", "--profile"]
    for name, array in given.items():
        np.save(tmp_path / f"in_{name}.npy", array)
        words += ["--input", f"{name}={tmp_path / f'in_{name}.npy'}"]
    result = run(*words)
    assert result.returncode == 0, result.stderr
    right = Session(bundle.with_name("host.pf")).run(given)["hidden"]
    np.testing.assert_allclose(np.load(tmp_path / "hidden.npy"), right, rtol=1e-4, atol=1e-5)
    assert len(json.loads(result.stdout)["profile"]) > 5


def test_a_core_without_i8mm_refuses_a_bundle_that_needs_it(
    bundle: Path, run: Run, tmp_path: Path
) -> None:
    loaded = Bundle.load(bundle, check_machine=False)
    loaded.save(tmp_path / "new.pf")
    resign(tmp_path / "new.pf", target=replace(loaded.manifest.target, isa=("i8mm", "neon")))
    refused = run(tmp_path / "new.pf", "--dim", "seq=8")
    assert refused.returncode == 2
    assert refused.stderr == (
        "pocketformer_run: the bundle was compiled for aarch64 linux (needs i8mm, neon), "
        "this machine's processor lacks i8mm\n"
    )
    assert run(tmp_path / "new.pf", "--dim", "seq=8", cpu="max").returncode == 0


def test_a_bundle_of_another_processor_is_refused(bundle: Path, run: Run) -> None:
    result = run(bundle.with_name("host.pf"))
    assert result.returncode == 2
    assert result.stderr.endswith(", this machine is aarch64 linux\n")
