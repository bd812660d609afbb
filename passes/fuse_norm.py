"""layer_norm(x + r), rms_norm(x + r), layer_norm(x)  ->  norm(x, gamma, beta, r)."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes.composite import Composites
from pocketformer.passes.fused_operators import norm
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    dtype,
    entry_functions,
    join_spans,
    op_name,
    same_sizes,
    shape,
)
from pocketformer.passes.refusal import Refused, note_refusal

KINDS = {"relax.nn.layer_norm": "layer", "relax.nn.rms_norm": "rms"}


class FuseNorm:
    """Every norm over the last axis, with the sum before it when nothing else needs that sum."""

    def __call__(self, mod: IRModule) -> IRModule:
        composites = Composites(mod)
        return composites.module(
            {gvar: _fuse(func, composites) for gvar, func in entry_functions(mod)}
        )


def _fuse(func: relax.Function, composites: Composites) -> relax.Function:
    graph = Graph(func)
    replacements = {}
    for var, value in graph:
        if op_name(value) not in KINDS:
            continue
        try:
            replacements[var] = Replacement(_match(graph, value, composites))
        except Refused as reason:
            note_refusal("fuse_norm", value, reason)
    return graph.replaced(replacements)


def _match(graph: Graph, call: relax.Call, composites: Composites) -> relax.Call:
    x, gamma = call.args[:2]
    rank = len(shape(x))
    axes = [int(axis) % rank for axis in call.attrs.axes]
    if axes != [rank - 1]:
        raise Refused(f"it runs over axes {axes} of {rank}, not the last alone")
    if dtype(call) != "float32":
        raise Refused(f"its input is {dtype(call)}, a norm needs float32")
    if not isinstance(shape(x)[-1], int):
        raise Refused("the size of its last axis is not a constant")
    args, passed, residual = [x, gamma, *call.args[2:]], [call], False
    total = graph.value(x)
    if (
        op_name(total) == "relax.add"
        and graph.only_user(x) is not None
        and all(same_sizes(shape(term), shape(x)) for term in total.args)
    ):
        residual = True
        args = [total.args[0], *args[1:], total.args[1]]
        passed = [total, call]
    options: dict[str, Any] = {
        "kind": KINDS[op_name(call)],
        "eps": float(call.attrs.epsilon),
        "residual": residual,
    }
    return composites.call(
        "norm", args, lambda *params: norm(*params, **options), options, join_spans(passed)
    )
