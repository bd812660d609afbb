"""dequantize(q)  ->  dequantize(reshape(q)), where the loop that makes q is not to reach further.

A view of the same shape, which costs nothing, ends a loop. Loops over quantised tensors would else
reach over every rounding up to the next product: TVM vectorises the factors of a product with a
number twice, so what is nested in n of them 2**n times, and what two read would be computed twice.
"""

from __future__ import annotations

from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes.entries import map_entries
from pocketformer.passes.graph import Graph, Replacement, emit, normalize, op_name


class LowerQuantized:
    """Integers that loops both make and read are written to memory between: a byte each."""

    def __call__(self, mod: IRModule) -> IRModule:
        return map_entries(mod, _function)


def _function(func: relax.Function) -> relax.Function:
    graph = Graph(func)
    replacements = {}
    for var, value in graph:
        if op_name(value) != "relax.dequantize" or not _is_made(graph, value.args[0]):
            continue
        before: list[relax.VarBinding] = []
        whole = value.args[0]
        view = emit(before, relax.op.reshape(whole, whole.ty.shape), f"{whole.name}_view")
        call = relax.Call(value.op, [view, *value.args[1:]], value.attrs)
        replacements[var] = Replacement(normalize(call, value.span), before)
    return graph.replaced(replacements)


def _is_made(graph: Graph, whole: relax.Expr) -> bool:
    """Whether operators that may be one loop with others compute it while the model runs."""
    name = op_name(graph.value(whole))
    loops = name.startswith("relax.") and name not in ("relax.call_tir", "relax.reshape")
    return loops and not graph.is_weight(whole)
