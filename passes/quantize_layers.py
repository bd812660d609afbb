"""linear(x, w, b)  ->  quantized_linear(quantize(x), w_q, scales, b), attention and lookup too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm import relax

from pocketformer.compiler.quantization.numbers import Numbers
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import Replacement


@dataclass(frozen=True)
class QuantizeLayers(Fusion):
    """Every layer in `layers`, by the name of the variable that it is bound to."""

    layers: Mapping[str, Numbers]

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The layer `call`, if there are numbers for it."""
        return None
