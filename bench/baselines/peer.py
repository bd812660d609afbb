"""What the bench knows of an engine: how it gets a model's file, and what runs that file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import onnx_files
from bench.models import BenchModel
from pocketformer.compiler.errors import PocketformerError

LIMIT = 1200    # seconds that a converter may take
MISSING = "not installed"
REFUSED = 3     # the exit code of bench.convert where the converter itself refused
KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)    # any other signal: it crashed by itself
# Converters report these like a refusal, but another time there may be room.
SHORTAGES = ("no space left on device", "allocate memory", "bad_alloc", "too many open files")
Sizes = Mapping[str, int]


class Refuses(PocketformerError):
    """An engine or its converter does not take a model; the sentence says why."""


class ConverterEnded(PocketformerError):
    """Somebody ended a converter, maybe the system for lack of memory: it did not refuse."""


@dataclass(frozen=True)
class Peer:
    """An engine of the bench.

    `file(model, sizes)` returns what `engine` ("module:Class" of an Engine) loads, and raises
    Refuses where there is no such file. `packages` are those whose versions matter.
    """

    name: str
    label: str
    engine: str
    packages: tuple[str, ...]
    file: Callable[[BenchModel, Sizes], Path]
    precision: str = "float32"

    def versions(self) -> dict[str, str]:
        return {package: installed(package) for package in self.packages}

    def check(self) -> None:
        """Raises Refuses where one of its packages is missing."""
        if missing := [name for name, found in self.versions().items() if found == MISSING]:
            raise Refuses(f"the package {missing[0]} is {MISSING}")


def installed(package: str) -> str:
    """The version of a package, or that it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return MISSING


def converted(
    module: str, suffix: str, packages: tuple[str, ...], path: Callable[[], list[Path]] = list
) -> Callable[[BenchModel, Sizes], Path]:
    """A `Peer.file` that calls `convert(model, sizes, output)` of `module` in its own process.

    `path` are folders that the process has to find packages in. What the converter itself refused
    is remembered until `forget_refusals`; what went wrong around it is tried again.
    """
    name = module.rpartition(".")[2]

    def file(model: BenchModel, sizes: Sizes) -> Path:
        folders = path()
        made_by = [*map(installed, packages), *map(str, folders)]
        key = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:8]
        output = model.sized(sizes) / f"{name}-{key}{suffix}"
        if output.exists():
            return output
        said = model.work / f"{output.parent.name}-{output.stem}.refusal"
        if said.exists():
            raise Refuses(said.read_text())
        reason = _convert(module, model, sizes, output, folders)
        if reason:
            onnx_files.made_anew(said, lambda part: part.write_text(reason))
            raise Refuses(reason)
        return output

    return file


def forget_refusals(model: BenchModel, sizes: Sizes) -> None:
    """Let converters be asked again for these sizes."""
    for said in model.work.glob(f"{model.sized(sizes).name}-*.refusal"):
        said.unlink(missing_ok=True)


def run_converter(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a converter's program; output is caught. Raises ConverterEnded where it is killed."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False,
                          **options)
    if -done.returncode in KILLED:
        raise ConverterEnded(f"{Path(command[0]).name} was ended by signal {-done.returncode}")
    return done


def _convert(module: str, model: BenchModel, sizes: Sizes, output: Path, path: list[Path]) -> str:
    """Convert in a process; returns the converter's own reason not to, or nothing.

    Raises Refuses where time, a missing package or the system was the cause.
    """
    root = Path(__file__).parents[2]
    part = output.with_name(f".{os.getpid()}.{output.name}")
    folders = [*map(str, path), str(root), os.environ.get("PYTHONPATH", "")]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.convert", module, model.name, json.dumps(dict(sizes)),
             str(part)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=LIMIT, check=False,
        )
        if done.returncode < 0:
            raise Refuses(f"its converter was ended by signal {-done.returncode}")
        if done.returncode:
            cause = _cause(done.stderr)
            if done.returncode == REFUSED and not any(x in cause.lower() for x in SHORTAGES):
                return cause
            raise Refuses(cause)
        os.replace(part, output)
        return ""
    except subprocess.TimeoutExpired:
        raise Refuses(f"its converter takes more than {LIMIT // 60} minutes") from None
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)


def _cause(text: str) -> str:
    """One line of what a converter wrote: the first that speaks of an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it wrote nothing"]
    told = next((line for line in lines if "error:" in line.lower()), lines[-1])
    return f"its converter: {' '.join(told.split())[:200]}"
