"""x * sigmoid(x)  ->  nn.silu(x).

quick_gelu, x * sigmoid(1.702 * x), has no Relax operator. It stays as it is: three elementwise
operators, which become one kernel.
"""

from __future__ import annotations

from tvm import relax

from pocketformer.passes.pattern import Value, operator
from pocketformer.passes.rewrite import Match, Rewrite

x = Value("x")
sigmoid = operator("sigmoid", x)


class FuseSilu(Rewrite):
    """Every SiLU (Swish) that is written as a product."""

    patterns = (x * sigmoid,)

    def rewrite(self, match: Match) -> relax.Expr:
        return relax.op.nn.silu(match.value("x"))
