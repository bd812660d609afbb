"""Time the models of models.toml beside onnxruntime; results/ gets a .json and a .md for each."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.table import markdown
from pocketformer.compiler.arrays import Arrays, write_arrays
from pocketformer.compiler.bench import (
    Contender,
    largest_difference,
    largest_error,
    onnx_sizes,
    race,
)
from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.cli.common import progress
from pocketformer.compiler.example_inputs import make_inputs
from pocketformer.compiler.session import Session
from pocketformer.compiler.worker import Worker

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
WORK = HERE.parent / "build" / "bench"
OURS, THEIRS = (f"pocketformer.compiler.engines:{name}" for name in ("Pocketformer", "Onnxruntime"))


def main() -> None:
    models = read_models()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(models)}; all")
    parser.add_argument("--runs", type=int, help="timed calls of each engine")
    wanted = parser.parse_args()
    if unknown := set(wanted.models) - models.keys():
        parser.error(f"no model {unknown.pop()!r}; there are {', '.join(models)}")
    for name in wanted.models or models:
        spec = models[name]
        record = measure(name, spec, wanted.runs or spec["runs"])
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        (HERE / "results" / f"{name}.md").write_text(markdown(record))
        print(markdown(record))


def read_models() -> dict[str, dict[str, Any]]:
    """The tables of models.toml by name."""
    return tomllib.loads((HERE / "models.toml").read_text())


def measure(name: str, spec: dict[str, Any], runs: int) -> dict[str, Any]:
    """Export, compile and race one model of models.toml; everything that was measured."""
    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    with progress(f"{name}: exporting for onnxruntime") as step:
        plain, optimized = export(spec, work)
        compilations = {}
        for case in spec["cases"]:
            step(f"{name}: compiling {case['name']}", 0.0)
            compilations[case["name"]] = compile_apart(plain, work / f"{case['name']}.pf", case)
        ours = [
            Contender(f"pocketformer {case}", OURS, work / f"{case}.pf") for case in compilations
        ]
        bundle = Bundle.load(ours[0].path)
        arrays = inputs_of(bundle, spec)
        write_arrays(work / "inputs.npz", arrays)
        sizes = onnx_sizes(plain, arrays)
        theirs = [
            Contender("onnxruntime", THEIRS, plain, sizes),
            Contender("onnxruntime, optimizer tool", THEIRS, optimized, sizes),
        ]
        races = []
        for threads in spec["threads"]:
            results = race([*ours, *theirs], work / "inputs.npz", threads, runs, work, step)
            races.append({"threads": threads, "engines": [asdict(each) for each in results]})
        step(f"{name}: comparing other sizes", 0.9)
        others = errors_elsewhere(plain, work, spec)
    reference = work / "onnxruntime.npz"
    return {
        "model": name,
        "machine": machine.describe(),
        "sizes": spec["sizes"],
        "weight_bytes": sum(array.nbytes for array in bundle.weights.values()),
        "compilations": compilations,
        "races": races,
        "errors_elsewhere": others,
        "errors": {c.label: largest_error(work / f"{c.label}.npz", reference) for c in ours},
    }


def errors_elsewhere(plain: Path, work: Path, spec: dict[str, Any]) -> dict[str, float]:
    """The largest error of the symbolic bundle at each size of `spec["also_right_at"]`."""
    if not (sizes := spec.get("also_right_at")):
        return {}
    import onnxruntime

    reference = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"])
    names = [output.name for output in reference.get_outputs()]
    bundle = Bundle.load(work / "symbolic.pf")
    session = Session(bundle)
    errors = {}
    for axis, values in sizes.items():
        for value in values:
            arrays = inputs_of(bundle, {**spec, "sizes": {**spec["sizes"], axis: value}})
            theirs = dict(zip(names, reference.run(names, arrays), strict=True))
            errors[f"{axis} {value}"] = largest_difference(session.run(arrays), theirs)
    return errors


def export(spec: dict[str, Any], work: Path) -> tuple[Path, Path]:
    """The ONNX file of a model as exported, and as onnxruntime's optimizer tool leaves it."""
    plain, optimized = work / "plain.onnx", work / "optimized.onnx"
    if not optimized.exists():
        from bench.baselines import onnxruntime

        folder = source_of(spec)
        onnxruntime.export(folder, plain)
        onnxruntime.optimize(plain, folder, optimized)
    return plain, optimized


def source_of(spec: dict[str, Any]) -> Path:
    """The Hugging Face folder of a model of models.toml, in the package that brings it."""
    found = importlib.util.find_spec(spec["package"])
    if found is None or found.origin is None:
        sys.exit(f"the package {spec['package']} is not installed; `make bench` installs it")
    return Path(found.origin).parent / spec["folder"]


def compile_apart(source: Path, output: Path, case: dict[str, Any]) -> dict[str, float]:
    """Compile in a process of its own: seconds, and peak bytes above those of the imports."""
    with Worker("pocketformer.compiler.engines:Compiler") as worker:
        done = worker.ask(
            "compile", source=str(source), output=str(output), target="host", dims=case["dims"]
        )
        return {
            "seconds": done["seconds"],
            "peak_bytes": done["peak_bytes"] - worker.baseline_bytes,
            "bundle_bytes": sum(file.stat().st_size for file in output.iterdir()),
        }


def inputs_of(bundle: Bundle, spec: dict[str, Any]) -> Arrays:
    """Random inputs; the integers of an input lie below its bound in `spec["below"]`."""
    manifest = bundle.manifest
    arrays = make_inputs(manifest.inputs, {**spec["sizes"]})
    random = np.random.default_rng(1)
    for name, bound in spec["below"].items():
        arrays[name] = random.integers(0, bound, arrays[name].shape).astype(arrays[name].dtype)
    return arrays


if __name__ == "__main__":
    main()
