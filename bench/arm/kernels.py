"""Count and judge single kernels: every line of shapes/*.txt, compiled for an ARM processor."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import tvm
import tvm_ffi

from bench.arm import llvm
from bench.arm.blocks import Region
from bench.arm.counting import compile_c, run_counted
from bench.arm.instructions import Counts
from bench.arm.judge import ESTIMATED, SHOWN, core_cycles
from bench.arm.setting import arm_target, command, show
from bench.kernels import SHAPES, cases
from pocketformer.compiler.device.cpuinfo import CPUS
from pocketformer.compiler.link import Linker
from pocketformer.schedules.cpu import Kernel, pick
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target


@dataclass(frozen=True)
class Judged:
    """One kernel at one size; `cycles` are estimates by the name of a core."""

    workload: str
    kernel: str
    counts: Counts
    flops: float
    cycles: dict[str, float]


def main() -> None:
    names = sorted(path.stem for path in SHAPES.glob("*.txt"))
    parser = argparse.ArgumentParser(prog="python -m bench.arm.kernels", description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="SHAPES", help=f"of {', '.join(names)}; all")
    parser.add_argument("--target", default="arm64-linux", help="whose code (default: arm64-linux)")
    parser.add_argument("--cpu", default="cortex-a76", choices=list(CPUS), help="what qemu plays")
    parser.add_argument(
        "--core", action="append", choices=list(llvm.MODELS), metavar="CORE",
        help=f"estimate its cycles (default: {SHOWN}); may be repeated: {', '.join(llvm.MODELS)}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    wanted = parser.parse_args()
    if unknown := set(wanted.shapes) - set(names):
        parser.error(f"no shapes {unknown.pop()!r}; there are {', '.join(names)}")
    target, cores = arm_target(wanted.target), wanted.core or [SHOWN]
    found = []
    if not wanted.json:
        show(heading(cores))
    for name in wanted.shapes or names:
        for known, _, _, flops in cases(SHAPES / f"{name}.txt"):
            found.append(judge(known, flops, target, wanted.cpu, cores))
            if not wanted.json:
                show(row(found[-1], cores))
    if wanted.json:
        show(json.dumps([asdict(each) for each in found], indent=1))


def judge(
    workload: Workload, flops: float, target: Target, cpu: str, cores: list[str]
) -> Judged:
    """What `target`'s kernel for `workload`, of known sizes, executes in one call."""
    kernel = pick(workload, target)
    region = counted(kernel, target, cpu)
    cycles = {core: core_cycles([region], core)[0] for core in cores}
    return Judged(str(workload), kernel.name, region.counts, flops, cycles)


def counted(kernel: Kernel, target: Target, cpu: str) -> Region:
    """What a call of `kernel`, which is of known sizes, executes as code for `target`."""
    with tempfile.TemporaryDirectory(prefix="pocketformer-kernel-") as folder:
        library = Path(folder) / "kernel.so"
        func = kernel.func.with_attr("global_symbol", "kernel")
        executable = tvm.compile(func, target=target.tvm())
        executable.export_library(str(library), fcompile=Linker(target))
        texts = ["x".join(str(int(size)) for size in array.shape) + f":{array.dtype}"
                 for array in func.params]
        (region,) = run_counted([runner(), library, *texts], cpu).regions
    return region


@cache
def runner() -> Path:
    """run_kernel.c for ARM, compiled once."""
    headers = Path(tvm_ffi.__file__).parent / "include"
    return compile_c(
        "run_kernel.c", "aarch64-linux-gnu.2.17", f"-I{headers}", "-rdynamic", "-ldl"
    )


def heading(cores: list[str]) -> str:
    names = "".join(f" {core}: cycles | a multiply-add |" for core in cores)
    return (
        f"Cycles: {ESTIMATED}. A multiply-add is an fmla, or an instruction such as sdot.\n\n"
        f"| workload | kernel | instructions | multiply-adds | instructions each | loads each |"
        f"{names}\n|{'---|' * (6 + 2 * len(cores))}"
    )


def row(found: Judged, cores: list[str]) -> str:
    counts = found.counts
    products = counts.products or 1
    estimates = "".join(
        f" {found.cycles[core]:,.0f} | {found.cycles[core] / products:.3f} |" for core in cores
    )
    return (
        f"| {found.workload} | {found.kernel} | {counts.total:,} | {counts.products:,} | "
        f"{counts.total / products:.3f} | {counts.load / products:.3f} |{estimates}"
    )


if __name__ == "__main__":
    command(main)
