"""linear(x, w, b), attention(q, k, v), norm(x, g)  ->  call_tir(kernel, (x, pack(w), b)), …"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax
from tvm.ir import GlobalVar, IRModule

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    dtype,
    emit,
    entry_functions,
    normalize,
    op_name,
    same_sizes,
    shape,
    with_entries,
)
from pocketformer.passes.kernel_plans import OPERATOR_PLANS, PLANS, Plan
from pocketformer.passes.pack_memory import IN_PLACE
from pocketformer.passes.refusal import Refused, note_refusal
from pocketformer.schedules.cpu import Kernel, pick
from pocketformer.schedules.workloads import (
    Workload,
)
from pocketformer.targets import Target

WORKLOAD = "pocketformer.workload"    # a PrimFunc's attribute: what it computes, as text


@dataclass(frozen=True)
class PickKernels:
    """Every fused operator gets the kernel of the first template that matches it."""

    target: Target

    def __call__(self, mod: IRModule) -> IRModule:
        picker = _Picker(mod, self.target)
        return picker.module({gvar: picker.function(f) for gvar, f in entry_functions(mod)})


class _Picker:
    """The kernels picked so far; the same workload is built once."""

    def __init__(self, mod: IRModule, target: Target) -> None:
        self._mod = mod
        self._target = target
        self._builder = relax.BlockBuilder(mod)
        self._kernels: dict[Workload, tuple[Kernel, GlobalVar]] = {}

    def module(self, entries: dict[GlobalVar, relax.Function]) -> IRModule:
        return with_entries(self._builder, self._mod, entries)

    def function(self, func: relax.Function) -> relax.Function:
        graph = Graph(func)
        replacements = {}
        for var, value in graph:
            before: list[relax.VarBinding] = []
            if (plan := self._plan(graph, before, var, value)) is None:
                continue
            try:
                replacements[var] = self._call(before, plan, var, value)
            except Refused as reason:
                note_refusal("pick_kernels", value, reason)
        return graph.replaced(replacements)

    def _plan(
        self, graph: Graph, before: list[relax.VarBinding], var: relax.Var, value: relax.Expr
    ) -> Plan | None:
        if found := composite_of(self._mod, value):
            name, composite = found
            return PLANS[name](before, var.name, value, options_of(composite))
        plan = OPERATOR_PLANS.get(op_name(value))
        return plan(before, var.name, value, {}) if plan else None

    def _call(
        self, before: list[relax.VarBinding], plan: Plan, var: relax.Var, value: relax.Call
    ) -> Replacement:
        kernel, gvar = self._kernel(plan)
        args = list(plan.args)
        if plan.packed is not None and kernel.pack is not None:
            args[plan.packed] = emit(
                before, kernel.pack(args[plan.packed]), f"{var.name}_packed"
            )
        out_type = relax.TensorType(plan.out, dtype(value))
        call = normalize(relax.call_tir(gvar, args, out_type), value.span)
        if same_sizes(plan.out, shape(value)):
            return Replacement(call, before)
        flat = emit(before, call, f"{var.name}_flat", value.span)
        return Replacement(normalize(relax.op.reshape(flat, value.ty.shape), value.span), before)

    def _kernel(self, plan: Plan) -> tuple[Kernel, GlobalVar]:
        workload = plan.workload
        if workload not in self._kernels:
            try:
                kernel = pick(workload, self._target)
            except LookupError as error:
                raise Refused(str(error)) from None
            # A name of its own in this module, as two workloads may run the same kernel.
            func = kernel.func.without_attr("global_symbol").with_attr(WORKLOAD, str(workload))
            if plan.in_place is not None:
                func = func.with_attr(IN_PLACE, [plan.in_place])
            self._kernels[workload] = kernel, self._builder.add_func(
                func, f"{kernel.name}__{workload}"
            )
        return self._kernels[workload]
