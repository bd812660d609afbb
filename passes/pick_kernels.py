"""linear(x, w, b), attention(q, k, v), norm(x, g)  ->  call_tir(kernel, (x, pack(w), b)), …"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm import relax
from tvm.ir import GlobalVar, IRModule

from pocketformer.passes.entries import entry_functions, with_entries
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    emit,
    normalize,
    same_sizes,
    shape,
    sizes_of,
)
from pocketformer.passes.kernel_plans import Planned, plans
from pocketformer.passes.pack_memory import IN_PLACE
from pocketformer.passes.plan import Plan
from pocketformer.passes.precision import PRECISION, precision_of
from pocketformer.passes.refusal import Refused, note_refusal
from pocketformer.schedules.cpu import Kernel, pick
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target

WORKLOAD = "pocketformer.workload"    # a PrimFunc's attribute: what it computes, as text


@dataclass(frozen=True)
class PickKernels:
    """Every fused operator gets the kernel of the first template that matches it.

    `points` are the templates' points for some workloads; the others get the untuned kernel.
    """

    target: Target
    points: Mapping[Workload, Any] = field(default_factory=dict)

    def __call__(self, mod: IRModule) -> IRModule:
        picker = _Picker(mod, self)
        return picker.module({gvar: picker.function(f) for gvar, f in entry_functions(mod)})


class _Picker:
    """The kernels picked so far; the same workload is built once."""

    def __init__(self, mod: IRModule, options: PickKernels) -> None:
        self._mod = mod
        self._options = options
        self._builder = relax.BlockBuilder(mod)
        self._kernels: dict[Workload, tuple[Kernel, GlobalVar]] = {}

    def module(self, entries: dict[GlobalVar, relax.Function]) -> IRModule:
        return with_entries(self._builder, self._mod, entries)

    def function(self, func: relax.Function) -> relax.Function:
        graph = Graph(func)
        replacements = {}
        for planned in plans(self._mod, graph):
            try:
                replacements[planned.var] = self._call(planned)
            except Refused as reason:
                note_refusal("pick_kernels", planned.value, reason)
        return graph.replaced({**replacements, **_parts(graph, replacements)})

    def _call(self, planned: Planned) -> Replacement:
        plan, var, value, before = planned.plan, planned.var, planned.value, planned.before
        kernel, gvar = self._kernel(plan)
        args = list(plan.args)
        if plan.packed is not None and kernel.pack is not None:
            args[plan.packed] = emit(
                before, kernel.pack(args[plan.packed]), f"{var.name}_packed"
            )
        if plan.packed is not None and kernel.pack_scale is not None:
            scale = plan.packed + 1
            args[scale] = emit(before, kernel.pack_scale(args[scale]), f"{var.name}_scale")
        if isinstance(value.ty, relax.TupleType):
            return _tuple(relax.call_tir(gvar, args, _types(plan, value)), planned)
        call = normalize(relax.call_tir(gvar, args, *_types(plan, value)), value.span)
        if same_sizes(plan.out, shape(value)):
            return Replacement(call, before)
        flat = emit(before, call, f"{var.name}_flat", value.span)
        return Replacement(normalize(relax.op.reshape(flat, value.ty.shape), value.span), before)

    def _kernel(self, plan: Plan) -> tuple[Kernel, GlobalVar]:
        workload = plan.workload
        if workload not in self._kernels:
            try:
                kernel = pick(
                    workload, self._options.target, self._options.points.get(workload))
            except LookupError as error:
                raise Refused(str(error)) from None
            # A name of its own in this module, as two workloads may run the same kernel.
            func = kernel.func.without_attr("global_symbol").with_attr(WORKLOAD, str(workload))
            func = func.with_attr(PRECISION, precision_of(workload))
            if plan.in_place is not None:
                func = func.with_attr(IN_PLACE, [plan.in_place])
            self._kernels[workload] = kernel, self._builder.add_func(
                func, f"{kernel.name}__{workload}"
            )
        return self._kernels[workload]


def _types(plan: Plan, value: relax.Call) -> list[relax.TensorType]:
    """Of the kernel's results."""
    wanted = value.ty.fields if isinstance(value.ty, relax.TupleType) else [value.ty]
    return [
        relax.TensorType(sizes, each.dtype)
        for sizes, each in zip([plan.out, *plan.more], wanted, strict=True)
    ]


def _tuple(call: relax.Call, planned: Planned) -> Replacement:
    """The results of `call` in the shapes that the fused operator gives them."""
    before, name, span = planned.before, planned.var.name, planned.value.span
    results = emit(before, call, f"{name}_flat", span)
    fields = []
    for number, wanted in enumerate(planned.value.ty.fields):
        field = emit(before, relax.TupleGetItem(results, number), f"{name}_flat{number}")
        if not same_sizes(shape(field), sizes_of(wanted)):
            shaped = relax.op.reshape(field, wanted.shape)
            field = emit(before, shaped, f"{name}_part{number}", span)
        fields.append(field)
    return Replacement(normalize(relax.Tuple(fields)), before)


def _parts(graph: Graph, replacements: Mapping[relax.Var, Replacement]) -> dict[
    relax.Var, Replacement
]:
    """What is taken out of tuples of `replacements`, so that nobody needs the tuples."""
    parts = {}
    for var, value in graph:
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in replacements:
            whole = replacements[value.tuple_value].value
            parts[var] = Replacement(whole.fields[int(value.index)])
    return parts
