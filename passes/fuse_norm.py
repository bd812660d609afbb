"""layer_norm(x + r), rms_norm(x + r), layer_norm(x)  ->  norm(x, gamma, beta, r)."""

from __future__ import annotations

from typing import Any

from tvm import relax

from pocketformer.passes.composite import Composites
from pocketformer.passes.fused_operators import norm
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    dtype,
    join_spans,
    op_name,
    same_sizes,
    shape,
)
from pocketformer.passes.refusal import Refused

KINDS = {"relax.nn.layer_norm": "layer", "relax.nn.rms_norm": "rms"}


class FuseNorm(Fusion):
    """Every norm over the last axis, with the sum before it when nothing else needs that sum."""

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The norm `call`."""
        if op_name(call) not in KINDS:
            return None
        return var, Replacement(_match(search.graph, call, search.composites))


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
