"""(x - mean(x)) / sqrt(variance(x) + eps) * gamma + beta  ->  nn.layer_norm(x, gamma, beta)."""

from __future__ import annotations

import numpy as np
from tvm import relax

from pocketformer.passes.norms import check_norm, check_scale, mean, normalised
from pocketformer.passes.pattern import Value, operator
from pocketformer.passes.rewrite import Match, Rewrite

x, gamma, beta = Value("x"), Value("gamma"), Value("beta")
centred = x - mean(x)
variance = mean(centred**2) | operator("variance", x)
scaled = normalised(centred, variance, gamma)


class FuseLayerNorm(Rewrite):
    """Every LayerNorm (Ba et al. 2016) over the last axis, with beta or without."""

    patterns = (scaled + beta, scaled)

    def rewrite(self, match: Match) -> relax.Expr:
        data, scale = match.value("x"), match.value("gamma")
        size = check_norm(match, data)
        check_scale("gamma", scale, size)
        shift = match.found.values.get("beta")
        if shift is None:
            shift = relax.const(np.zeros(size, "float32"))
        check_scale("beta", shift, size)
        return relax.op.nn.layer_norm(
            data, scale, shift, axes=[-1], epsilon=match.number("eps")
        )
