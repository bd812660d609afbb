"""One counted run of a model in the emulator: by our native runtime, or by a peer's ARM wheel."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.arm import wheels
from bench.arm.blocks import KERNEL, RUN, Region
from bench.arm.counting import run_counted
from pocketformer import runtime
from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.device import emulator
from pocketformer.compiler.progress import Progress

HERE = Path(__file__).parent
INSIDE = HERE / "inside.py"


@dataclass(frozen=True)
class OneRun:
    """A run's outputs, all that it executed, and its kernels by their order, where those are known.

    `kernels` are pairs of a kernel's name and what a call of it executed.
    """

    outputs: Arrays
    region: Region
    kernels: tuple[tuple[str, Region], ...] = ()


def pocketformer(bundle: Path, inputs: Arrays, cpu: str, work: Path, progress: Progress) -> OneRun:
    """Run the bundle by pocketformer_run."""
    program = runtime.build("arm64-linux", progress=progress).run
    given = []
    for number, (name, array) in enumerate(inputs.items()):
        file = work / f"input_{number}.npy"
        np.save(file, array)
        given += ["--input", f"{name}={file}"]
    folder = work / "outputs"
    options = ["--output", str(folder), "--threads", "1", "--warmup", "2", "--runs", "0", "--mark"]
    counted = run_counted([program, bundle, *given, *options], cpu)
    names = dict(re.findall(r"^mark (\d+) (.+)$", counted.complained, re.MULTILINE))
    (whole,) = (region for region in counted.regions if region.phase == RUN)
    kernels = [region for region in counted.regions if region.phase == KERNEL]
    return OneRun(
        {file.stem: np.load(file) for file in sorted(folder.glob("*.npy"))},
        whole,
        tuple((names[str(region.index)], region) for region in kernels),
    )


def peer(
    engine: str, model: Path, inputs: Arrays, sizes: Mapping[str, int], cpu: str, work: Path
) -> OneRun:
    """Run the model by `engine` of inside.py, from the ARM wheel of the version installed here."""
    kit = emulator.set_up(cpu, kind="python", plugins=True)
    packages = {
        "onnxruntime": f"onnxruntime=={version('onnxruntime')}",
        "litert": f"ai-edge-litert=={wheels.LITERT}",
    }
    site = wheels.for_arm([packages[engine]], kit.sysroot)
    given, result = work / "inputs.npz", work / f"{engine}.npz"
    np.savez(given, **inputs)  # type: ignore[arg-type]
    counted = run_counted(
        [kit.sysroot / "usr/bin/python3", "-B", INSIDE, engine, model, given, result,
         json.dumps(dict(sizes))],
        cpu,
        {"PYTHONPATH": str(site), "PYTHONHOME": str(kit.sysroot / "usr")},
        kind="python",
    )
    with np.load(result) as file:
        return OneRun(dict(file), counted.regions[-1])
