"""linear(x, w)  ->  linear(round(x), round(w)), attention likewise, multiplied in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from pocketformer.passes.composite import Composites, composite_of, options_of
from pocketformer.passes.fused_operators import body_of
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import Replacement, emit

DTYPES = {"linear": ("bfloat16", "float16"), "attention": ("bfloat16",)}    # that kernels take


@dataclass(frozen=True)
class CastProducts(Fusion):
    """The weights of all linears are rounded to `dtype`; kernels round what else is multiplied."""

    dtype: str

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The linear or attention `call`."""
        found = composite_of(search.mod, call)
        if found is None or self.dtype not in DTYPES.get(found[0], ()):
            return None
        before: list[relax.VarBinding] = []
        name, options = found[0], options_of(found[1])
        new = cast_to(self.dtype, search.composites, name, call, options, var.name, before)
        return var, Replacement(new, before)


def cast_to(
    dtype: str, composites: Composites, kind: str, call: relax.Call, options: dict[str, Any],
    name: str, before: list[relax.VarBinding],
) -> relax.Call:
    """`call` of the composite `kind`, bound to `name`, on factors of `dtype`."""
    options, args = {**options, "dtype": dtype}, list(call.args)
    if kind == "linear":
        args[1] = emit(before, relax.op.astype(args[1], dtype), f"{name}_{dtype}")
    return composites.call(kind, args, lambda *a: body_of(kind, options, *a), options, call.span)
