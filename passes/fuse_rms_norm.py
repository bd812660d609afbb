"""x / sqrt(mean(x**2) + eps) * gamma  ->  nn.rms_norm(x, gamma)."""

from __future__ import annotations

from tvm import relax

from pocketformer.passes.norms import check_norm, check_scale, mean, normalised
from pocketformer.passes.pattern import Value
from pocketformer.passes.rewrite import Match, Rewrite

x, gamma = Value("x"), Value("gamma")


class FuseRmsNorm(Rewrite):
    """Every RMSNorm (Zhang and Sennrich 2019) over the last axis, as T5 and Llama write it."""

    patterns = (normalised(x, mean(x**2), gamma),)

    def rewrite(self, match: Match) -> relax.Expr:
        data, scale = match.value("x"), match.value("gamma")
        check_scale("gamma", scale, check_norm(match, data))
        return relax.op.nn.rms_norm(data, scale, axes=[-1], epsilon=match.number("eps"))
