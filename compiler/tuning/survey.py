"""What a module of fused operators will call kernels for; nothing is built."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import IRModule

from pocketformer.compiler.costs import formula
from pocketformer.compiler.folding import expression_text
from pocketformer.compiler.model import Axis
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Graph
from pocketformer.passes.kernel_plans import Planned, plans
from pocketformer.schedules.workloads import Workload


@dataclass(frozen=True)
class Use:
    """A call of a kernel for `workload` in the entry function `entry`.

    `sizes` are formulas in the model's dimensions for what the workload leaves open, by its name
    in the kernel, or None where one is too complicated. `weight` tells from what the weight is
    computed that the kernel wants packed: equal texts are the same numbers. None without one.
    """

    entry: str
    workload: Workload
    sizes: tuple[tuple[str, Axis], ...] | None
    weight: str | None


def survey(mod: IRModule) -> list[Use]:
    """Every call that PickKernels would make in `mod`, entry by entry, in order."""
    return [
        _use(str(func.attrs["global_symbol"]), graph, planned)
        for _, func in entry_functions(mod)
        for graph in (Graph(func),)
        for planned in plans(mod, graph)
    ]


def _use(entry: str, graph: Graph, planned: Planned) -> Use:
    plan = planned.plan
    formulas = {
        name: formula(size) for name, size in plan.axes.items() if not isinstance(size, int)
    }
    known = tuple((name, size) for name, size in formulas.items() if size is not None)
    packed = None if plan.packed is None else plan.args[plan.packed]
    shared = packed is not None and graph.is_weight(packed)
    return Use(
        entry,
        plan.workload,
        known if len(known) == len(formulas) else None,
        expression_text(graph, packed) if shared else None,
    )
