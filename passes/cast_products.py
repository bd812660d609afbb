"""linear(x, w)  ->  linear(round(x), round(w)), attention likewise, multiplied in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.fused_operators import attention, linear, packed_attention
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
        name, options = found[0], {**options_of(found[1]), "dtype": self.dtype}
        before: list[relax.VarBinding] = []
        args = list(call.args)
        if name == "linear":
            args[1] = emit(before, relax.op.astype(args[1], self.dtype), f"{var.name}_{self.dtype}")
        new = search.composites.call(
            name, args, lambda *a: _body(name, options, *a), options, call.span)
        return var, Replacement(new, before)


def _body(name: str, options: dict[str, Any], *args: relax.Expr) -> relax.Expr:
    if name == "linear":
        return linear(*args, **options)
    options = dict(options)
    body = packed_attention if options.pop("packed", False) else attention
    return body(*args, **options)
