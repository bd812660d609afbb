"""Count what models execute on ARM, ours beside onnxruntime and LiteRT, and estimate the cycles.

With --recipe int8 or int8-dynamic, beside onnxruntime's dynamic INT8.

Everything runs in the emulator, whose own speed says nothing about ARM and is never shown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench import onnx_files
from bench.arm import engines
from bench.arm.engines import OneRun
from bench.arm.judge import SHOWN, core_cycles, cores_of, hottest
from bench.arm.setting import arm_target, command, show
from bench.arm.table import markdown
from bench.arm.wheels import LITERT
from bench.baselines import litert
from bench.calibration import calibration
from bench.cases import WRONG
from bench.models import HERE, WORK, BenchModel, read_models
from pocketformer import __version__
from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.bench import largest_difference, onnx_sizes
from pocketformer.compiler.build import compile
from pocketformer.compiler.cli.common import key_values, progress
from pocketformer.compiler.device.cpuinfo import CPUS
from pocketformer.compiler.errors import BadModel, PocketformerError
from pocketformer.compiler.example_inputs import make_inputs, pick_sizes
from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.recipe import Int8, Recipe, recipe_named

CPU = "cortex-a76"
SIZES = {"batch": 1, "seq": 128}
# Of the largest value: beyond it an engine computes something else.
TOLERANCE = {**WRONG, "float32": 1e-4}
RECIPES = ("float32", "bfloat16", "int8", "int8-dynamic")
Record = dict[str, Any]
Runs = Mapping[str, Callable[[], OneRun]]       # by the engine's label


def main() -> None:
    models = read_models()
    parser = argparse.ArgumentParser(prog="python -m bench.arm", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(models)}; all")
    parser.add_argument("--model", type=Path, metavar="FILE.onnx", help="another model, once")
    parser.add_argument(
        "--dim", action="append", metavar="NAME=SIZE", help="a size of --model; may be repeated"
    )
    parser.add_argument("--target", default="arm64-linux", help="whose code (default: arm64-linux)")
    parser.add_argument("--cpu", default=CPU, choices=list(CPUS), help="what qemu plays")
    parser.add_argument("--recipe", default="float32", choices=RECIPES, help="of MODELs")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    wanted = parser.parse_args()
    if unknown := set(wanted.models) - models.keys():
        parser.error(f"no model {unknown.pop()!r}; there are {', '.join(models)}")
    if wanted.dim and not wanted.model:
        parser.error(f"--dim goes with --model; the others run at {_told(SIZES)}")
    if wanted.model:
        dims = key_values(wanted.dim, "--dim")
        report(judge_file(wanted.model, dims, wanted.target, wanted.cpu), wanted.json)
        return
    for name in wanted.models or models:
        record = judge_listed(models[name], wanted.target, wanted.cpu, wanted.recipe)
        parts = ["arm", name] + [wanted.recipe] * (wanted.recipe != "float32")
        parts += [wanted.cpu] * (wanted.cpu != CPU)
        place = HERE / "results" / f"{'-'.join(parts)}.json"
        place.write_text(json.dumps(record, indent=1) + "\n")
        place.with_suffix(".md").write_text(markdown(record))
        report(record, wanted.json)


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def report(record: Record, as_json: bool) -> None:
    show(json.dumps(record, indent=1) if as_json else markdown(record))


def judge_listed(model: BenchModel, target: str, cpu: str, recipe: str) -> Record:
    """A model of models.toml: ours, and in float32 both forms of onnxruntime's, and LiteRT's."""
    name, work = model.name, model.work
    sizes = {axis: size for axis, size in SIZES.items() if axis != "seq" or model.has_length}
    with progress(f"{name}: exporting for onnxruntime") as step:
        plain = onnx_files.plain(model)
        inputs = model.arrays(sizes)
        chosen = recipe_named(recipe)
        if isinstance(chosen, Int8) and not chosen.dynamic:
            chosen = replace(chosen, calibration=list(calibration(model, sizes)))
        known = {axis: str(size) for axis, size in sizes.items()}
        _compiled(plain, known, target, work, step, chosen)
        runs = _runs(plain, inputs, cpu, work, step)
        if isinstance(chosen, Int8):
            dynamic = onnx_files.dynamic_int8(model)
            runs["onnxruntime dynamic int8"] = lambda: engines.peer(
                "onnxruntime", dynamic, inputs, onnx_sizes(plain, inputs), cpu, work)
        if recipe != "float32":
            return _record(name, sizes, target, cpu, plain, inputs, runs, step, recipe)
        if model.optimizer:
            optimized = onnx_files.optimized(model)
            runs["onnxruntime, optimizer tool"] = lambda: engines.peer(
                "onnxruntime", optimized, inputs, onnx_sizes(plain, inputs), cpu, work)
        (converter,) = litert.PEERS
        runs["LiteRT"] = lambda: engines.peer(
            "litert", converter.file(model, sizes), inputs, {}, cpu, work)
        return _record(name, sizes, target, cpu, plain, inputs, runs, step)


def judge_file(model: Path, dims: Mapping[str, str], target: str, cpu: str) -> Record:
    """Any ONNX file, at the sizes of `dims` and the usual ones of what they leave open."""
    if model.suffix != ".onnx":
        raise BadModel(f"{model} is no .onnx file, which onnxruntime beside ours needs")
    work = WORK / f"arm-{model.stem}"
    work.mkdir(parents=True, exist_ok=True)
    with progress(f"{model.name}: reading") as step:
        from pocketformer.compiler import frontends

        given = frontends.load(model, dims=dims)
        sizes = pick_sizes(given.dims, {})
        bundle = _compiled(model, {**dims, **sizes}, target, work, step)
        inputs = make_inputs(bundle.manifest.inputs, sizes)
        runs = {**_runs(model, inputs, cpu, work, step), "LiteRT": _no_litert}
        shown = {**{axis: int(size) for axis, size in dims.items()}, **sizes}
        return _record(model.stem, shown, target, cpu, model, inputs, runs, step)


def _no_litert() -> OneRun:
    raise BadModel("its converter takes PyTorch models, not ONNX files")


def _compiled(
    source: Path, dims: Mapping[str, str | int], target: str, work: Path, step: Progress,
    recipe: Recipe | None = None,
) -> Any:
    step("compiling", 0.0)
    bundle = compile(source, arm_target(target), dims=dims, recipe=recipe)
    bundle.save(work / "arm.pf")
    return bundle


def _runs(
    plain: Path, inputs: Arrays, cpu: str, work: Path, step: Progress
) -> dict[str, Callable[[], OneRun]]:
    sizes = onnx_sizes(plain, inputs)
    return {
        "pocketformer": lambda: engines.pocketformer(work / "arm.pf", inputs, cpu, work, step),
        "onnxruntime": lambda: engines.peer("onnxruntime", plain, inputs, sizes, cpu, work),
    }


def _record(
    name: str, sizes: Mapping[str, int], target: str, cpu: str, plain: Path, inputs: Arrays,
    runs: Runs, step: Progress, recipe: str = "float32",
) -> Record:
    """Run everything, compare with onnxruntime on this machine, and judge what was executed."""
    expected = _reference(plain, inputs)
    found = []
    for number, (label, run) in enumerate(runs.items()):
        step(f"{name}: counting {label}", number / (len(runs) + 1))
        try:
            one = run()
        except PocketformerError as error:
            if label == "pocketformer":
                raise
            found.append({"label": label, "missing": str(error)})
            continue
        found.append(_judged(
            label, one, largest_difference(one.outputs, expected), TOLERANCE[recipe]))
    return {
        "model": name,
        "sizes": dict(sizes),
        "target": target,
        "emulated": cpu,
        "recipe": recipe,
        "versions": {
            "pocketformer": __version__,
            "apache-tvm": version_of("apache-tvm"),
            "onnxruntime": version_of("onnxruntime"),
            "ai-edge-litert": LITERT,
        },
        "cores": [asdict(core) for core in cores_of()],
        "engines": found,
    }


def _judged(label: str, one: OneRun, error: float, tolerance: float) -> Record:
    if error > tolerance:
        raise BadModel(f"{label} is {error:.1e} away from onnxruntime on this machine; counts of a "
                       f"wrong result say nothing")
    regions = [region for _, region in one.kernels]
    kernel_cycles = core_cycles(regions, SHOWN)
    loops = hottest(one.region, SHOWN)
    return {
        "label": label,
        "error": error,
        "counts": asdict(one.region.counts),
        "cycles": {core.name: core_cycles([one.region], core.name)[0] for core in cores_of()},
        "kernels": [
            {"name": name, "counts": asdict(region.counts), "cycles": cycles}
            for (name, region), cycles in zip(one.kernels, kernel_cycles, strict=True)
        ],
        "loops": [asdict(loop) for loop in loops],
    }


def _reference(plain: Path, inputs: Arrays) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


if __name__ == "__main__":
    command(main)
