"""linear(x, w)  ->  linear(round(x), round(w)), multiplied in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.fused_operators import linear
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import Replacement, emit


@dataclass(frozen=True)
class CastLinears(Fusion):
    """The weights of all linears are rounded to `dtype`, and their kernels round x."""

    dtype: str

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The linear `call`."""
        found = composite_of(search.mod, call)
        if found is None or found[0] != "linear":
            return None
        options = {**options_of(found[1]), "dtype": self.dtype}
        x, weight, *rest = call.args
        before: list[relax.VarBinding] = []
        rounded = emit(before, relax.op.astype(weight, self.dtype), f"{var.name}_{self.dtype}")
        new = search.composites.call(
            "linear", [x, rounded, *rest], lambda *a: linear(*a, **options), options, call.span
        )
        return var, Replacement(new, before)
