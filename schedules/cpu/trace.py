"""A function that no template computes, by a trace that MetaSchedule found, or by our schedule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import tvm
from tvm import tirx

from pocketformer.compiler.errors import BadRecords
from pocketformer.schedules.cpu.elementwise import schedule
from pocketformer.schedules.cpu.kernel import Kernel
from pocketformer.schedules.cpu.replay import replayed, trouble
from pocketformer.schedules.workloads import Function

if TYPE_CHECKING:
    from pocketformer.targets import Target


@dataclass(frozen=True)
class Trace:
    """The primitives `steps`, as JSON; without them the schedule of elementwise.py."""

    steps: str = ""

    @property
    def name(self) -> str:
        """`rest` for our schedule, else with a few digits that tell traces apart."""
        return f"trace_{sha256(self.steps.encode()).hexdigest()[:8]}" if self.steps else "rest"

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def matches(workload: object) -> bool:
        return isinstance(workload, Function)

    @classmethod
    def default(cls, target: Target, workload: Function) -> Trace:
        return cls()

    @classmethod
    def space(cls, target: Target, workload: Function) -> Iterator[Trace]:
        """Ours alone: nobody can list the others, of which tuning/trace_search.py samples some."""
        yield cls()

    def fits(self, workload: Function) -> bool:
        """Whether it is a trace for `workload`, as far as its code is known here."""
        if not self.steps:
            return True
        return _fits(self.steps, workload.text) if workload.text else not trouble(self.steps)

    def kernel(self, workload: Function, target: Target) -> Kernel:
        """Raises LookupError where the function's code is not known, BadRecords as `replayed`."""
        if not workload.text:
            raise LookupError(f"only the key of {workload} is known")
        func = tvm.ir.load_json(workload.text)
        made = replayed(func, self.steps) if self.steps else schedule(func, target)
        name = f"{workload.name}_{self.name}"
        return Kernel(name, made.with_attr("global_symbol", name))


def function_of(name: str, func: tirx.PrimFunc, key: str) -> Function:
    """The workload of `func`, which has no schedule yet and is called `name` in its module.

    The numbers by which a module tells functions apart are left out.
    """
    text = tvm.ir.save_json(func.without_attr("global_symbol"))
    return Function(re.sub(r"(?<=[a-z])\d+(?=_|$)", "", name), key, text)


@lru_cache(maxsize=4096)
def _fits(steps: str, text: str) -> bool:
    try:
        replayed(tvm.ir.load_json(text), steps)
    except BadRecords:
        return False
    return True
