"""pocketformer_run on the emulated phone, where ARM's own instructions take the checksums."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pocketformer as pf
from pocketformer import runtime
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.device.emulator import run_program
from pocketformer.compiler.recipe import BFloat16
from pocketformer.compiler.session import Session
from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.schedules.cpu.norm import RowNorm
from pocketformer.schedules.workloads import Norm
from pocketformer.targets import Target
from tests.encoder import encoder, inputs
from tests.numerics.tolerance import TOLERANCE
from tests.runtime.bundles import resign

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(emulator: None) -> Run:
    """Runs a program on the phone."""
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


@pytest.fixture(scope="module")
def fat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose norms read fewer vectors at a time on the level of newer cores."""

    def by_level(target: Target, workload: Norm) -> RowNorm:
        unroll = {"base": 4, "dotprod": 2, "i8mm": 2, "bf16": 1}[target.level]
        return RowNorm(isa_of(target).name, unroll)

    folder = tmp_path_factory.mktemp("fat")
    proto = encoder(seq=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowNorm, "default", staticmethod(by_level))
        pf.compile(proto, "arm64-linux").save(folder / "fat.pf")
    pf.compile(proto, "host").save(folder / "host.pf")
    return folder / "fat.pf"


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bfloat16")
    proto = encoder(seq=8)
    pf.compile(proto, "arm64-linux", recipe=BFloat16()).save(folder / "fat.pf")
    pf.compile(proto, "host", recipe=BFloat16()).save(folder / "host.pf")
    return folder / "fat.pf"


def kernels_of(
    path: Path, run: Run, folder: Path, dtype: str, **options: Any
) -> tuple[str, set[str]]:
    """The level that a core runs and the kernels that it calls; the outputs are compared with those
    of the bundle host.pf beside `path`."""
    given = inputs(1, 8)
    words: list[object] = [path, "--output", folder, "--runs", 1, "--json", "--profile"]
    for name, array in given.items():
        np.save(folder / f"in_{name}.npy", array)
        words += ["--input", f"{name}={folder / f'in_{name}.npy'}"]
    result = run(*words, **options)
    assert result.returncode == 0, result.stderr
    right = Session(path.with_name("host.pf")).run(given)["hidden"]
    scale = np.abs(right).max()
    np.testing.assert_allclose(
        np.load(folder / "hidden.npy") / scale, right / scale, rtol=0, atol=TOLERANCE[dtype]
    )
    told = json.loads(result.stdout)
    return told["level"], {name.split("__")[0] for name, _, _ in told["profile"]}


@pytest.mark.parametrize(("cpu", "wanted", "level", "norm"), [
    ("cortex-a72", None, "base", "f32_norm_1x16_neon"),
    ("cortex-a76", None, "dotprod", "f32_norm_1x8_neon"),
    ("max", None, "bf16", "f32_norm_1x4_neon"),
    ("max", "base", "base", "f32_norm_1x16_neon"),
])
def test_each_core_runs_the_last_level_that_it_can(
    cpu: str, wanted: str | None, level: str, norm: str, fat: Path, run: Run, tmp_path: Path
) -> None:
    chosen = {"POCKETFORMER_LEVEL": wanted} if wanted else {}
    found, kernels = kernels_of(fat, run, tmp_path, "float32", cpu=cpu, env=chosen)
    assert found == level
    assert {name for name in kernels if "norm" in name} == {norm}


@pytest.mark.parametrize(("cpu", "level", "instructions"), [
    ("cortex-a76", "base", ("neon",)), ("max", "bf16", ("bfdot", "bfmmla")),
])
def test_bfloat16_is_multiplied_by_instructions_where_the_core_has_them(
    cpu: str, level: str, instructions: tuple[str, ...], bfloat16: Path, run: Run, tmp_path: Path
) -> None:
    found, kernels = kernels_of(bfloat16, run, tmp_path, "bfloat16", cpu=cpu)
    assert found == level
    products = {name for name in kernels if name.startswith("bf16_")}
    assert products
    assert all(name.endswith(instructions) for name in products)


def test_a_core_refuses_a_level_that_it_cannot_run(fat: Path, run: Run) -> None:
    refused = run(fat, env={"POCKETFORMER_LEVEL": "bf16"})
    assert refused.returncode == 2
    assert refused.stderr == (
        "pocketformer_run: POCKETFORMER_LEVEL is 'bf16', this machine's processor lacks "
        "bf16, i8mm, fp16fml\n"
    )


def test_newer_levels_hold_only_what_differs(fat: Path) -> None:
    manifest = Bundle.load(fat, check_machine=False).manifest
    base, *above = manifest.levels
    assert [(level.name, level.kernels) for level in above] == [("dotprod", 1), ("bf16", 1)]
    assert base.kernels > 5
    assert [level.weight_bytes for level in above] == [0, 0]


def test_a_bundle_of_another_processor_is_refused(bundle: Path, run: Run) -> None:
    result = run(bundle.with_name("host.pf"))
    assert result.returncode == 2
    assert result.stderr.endswith(", this machine is aarch64 linux\n")
