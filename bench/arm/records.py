"""Estimate how fast points of a model's kernels are on a device's core: records without the device.

What an estimate knows of a core is its units and registers: see `judge.ESTIMATED`. So only points
of matrix products are compared that differ in their tiles, not in what depends on caches, memory or
threads. They are counted in the emulator; records of them are marked as estimated.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime, timezone

from bench import onnx_files
from bench.arm import llvm
from bench.arm.judge import core_cycles
from bench.arm.kernels import counted
from bench.arm.setting import arm_target, command, show
from bench.models import read_models
from pocketformer import __version__
from pocketformer.compiler import frontends
from pocketformer.compiler.cli.common import key_values
from pocketformer.compiler.device.cpuinfo import CPUS
from pocketformer.compiler.errors import BadTarget
from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.recipe import recipe_named
from pocketformer.compiler.tuning.points import Point, points_of
from pocketformer.compiler.tuning.record import ESTIMATED, Record
from pocketformer.compiler.tuning.record_file import RecordFile
from pocketformer.compiler.tuning.tasks import tasks_of
from pocketformer.schedules.workloads import Attention, BatchMatmul, Linear, Workload
from pocketformer.targets import Target

# Loops of multiply-adds. Where a loop stores to where it loads from, as a norm's does, llvm-mca
# lets the next step's load wait for the stored value: some of its estimates are twice the truth.
ESTIMATED_KINDS = (Linear, Attention, BatchMatmul)
# The choices whose effect shows in the instructions alone.
TILES = {"rows", "columns", "unroll", "ways", "keys", "queries", "value_rows"}


def main() -> None:
    models = read_models()
    parser = argparse.ArgumentParser(prog="python -m bench.arm.records", description=__doc__)
    parser.add_argument("model", choices=list(models))
    parser.add_argument("records", help="the file to add records to")
    parser.add_argument("--target", required=True, help="a device; its first core is estimated")
    parser.add_argument("--dim", action="append", metavar="NAME=SIZE", help="may be repeated")
    parser.add_argument("--cpu", default="cortex-a76", choices=list(CPUS), help="what qemu plays")
    parser.add_argument("--points", type=int, default=16, help="at most, of each kernel")
    parser.add_argument("--recipe", default="float32", help="how numbers are stored")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among them")
    wanted = parser.parse_args()
    target = arm_target(wanted.target)
    if target.cores[0].mcpu not in llvm.MODELS or not target.cores[0].max_ghz:
        raise BadTarget(
            f"the first core of {wanted.target} cannot be estimated; "
            f"one of {', '.join(llvm.MODELS)} can")
    dims = key_values(wanted.dim, "--dim")
    model = frontends.load(onnx_files.plain(models[wanted.model]), dims=dims)
    file = RecordFile(wanted.records)
    for task in tasks_of(model, target, recipe_named(wanted.recipe), {}):
        if task.sizes or not isinstance(task.workload, ESTIMATED_KINDS):
            show(f"{task.key}: left out, estimated are products of known sizes")
            continue
        points = chosen(task.workload, target, wanted.points, wanted.seed)
        found = list(estimates(task.workload, points, target, wanted.cpu))
        file.append(found)
        best = max((record.gain for record in found), default=1.0)
        show(f"{task.key}: {len(found)} points, the best {best:.3f}x the default")


def chosen(workload: Workload, target: Target, most: int, seed: int) -> list[Point]:
    """The default point, and at most `most` of those that differ from it in their tiles alone."""
    default, *rest = points_of(workload, target)
    tiles = [point for point in rest if _differences(point, default) <= TILES]
    return [default, *random.Random(seed).sample(tiles, min(most, len(tiles)))]


def estimates(
    workload: Workload, points: list[Point], target: Target, cpu: str
) -> Iterator[Record]:
    """A record of each point but the first, which is the default, on the first core of `target`."""
    core = target.cores[0]
    times = []
    for point in points:
        region = counted(point.kernel(workload, target), target, cpu)
        times.append(core_cycles([region], core.mcpu)[0] / core.max_ghz / 1e3)
        if len(times) == 1:
            continue
        yield Record(
            workload=workload, point=point, sizes={}, target=target.name, core=core.mcpu,
            threads=1, source=ESTIMATED, median_us=times[-1], default_us=times[0], spread=0.0,
            runs=0, device=None, tvm=version_of("apache-tvm"), pocketformer=__version__,
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )


def _differences(point: Point, default: Point) -> set[str]:
    if type(point) is not type(default):
        return {"template"}
    return {
        each.name for each in fields(point)    # type: ignore[arg-type]
        if getattr(point, each.name) != getattr(default, each.name)
    }


if __name__ == "__main__":
    command(main)
