"""Jobs for devices: points of a small workload, and others that do what no kernel should."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from platform import machine
from typing import Any

from pocketformer import targets
from pocketformer.compiler.tuning.job import Job
from pocketformer.compiler.tuning.kernel_bundle import build
from pocketformer.schedules.cpu import template_of
from pocketformer.schedules.cpu.kernel import Kernel
from pocketformer.schedules.workloads import Linear, Workload

QUICK, SLOW = Linear(m=4, n=64, k=32), Linear(m=256, n=512, k=512)
PPOLL = {"x86_64": 271, "aarch64": 73}[machine()]       # of Linux: without files it never returns
WILD = {"crash": ("abort",), "hang": ("syscall", PPOLL, 0, 0, 0, 0, 0)}


@dataclass(frozen=True)
class Wild:
    """A point whose kernel first calls a function of WILD."""

    point: Any
    calls: str

    def kernel(self, workload: Workload, target: Any) -> Kernel:
        from tvm import tirx

        kernel: Kernel = self.point.kernel(workload, target)
        wild = tirx.Evaluate(tirx.call_extern("int32", *WILD[self.calls]))
        func = kernel.func.with_body(tirx.SeqStmt([wild, kernel.func.body]))
        name = f"{self.calls}_{kernel.name}"
        return replace(kernel, name=name, func=func.with_attr("global_symbol", name))


def job(*calls: str, reference: str = "", workload: Linear = QUICK) -> Job:
    """A job for this machine: the untuned point, then one for each of `calls`.

    These are words of WILD, "" for a point that is as it should be; so is `reference`.
    """
    target = targets.load("host")
    target = replace(target, levels=())
    first, *others = islice(template_of(workload).space(target, workload), 1 + len(calls))
    points = [Wild(point, call) if call else point
              for point, call in zip([first, *others], [reference, *calls], strict=True)]
    return Job(target, workload, (), tuple(points))


@cache
def tar(job: Job) -> bytes:
    """Its bundle."""
    return build(job)


def built(job: Job) -> Future[bytes]:
    """Its bundle, as builders give it."""
    future: Future[bytes] = Future()
    future.set_result(tar(job))
    return future
