"""x * 0.5 * (1 + erf(x / sqrt(2)))  ->  nn.gelu(x); with its tanh form  ->  nn.gelu_tanh(x)."""

from __future__ import annotations

import math

from tvm import relax

from pocketformer.passes.pattern import Pattern, Value, operator
from pocketformer.passes.rewrite import Match, Rewrite

x = Value("x")
half_normal = operator("erf", x / math.sqrt(2))    # -1..1; (1 + this) / 2 is the distribution

# Hendrycks and Gimpel 2016, equation 2; the second is how a reader of it saves an operation.
root = math.sqrt(2 / math.pi)
approximate = operator("tanh", root * (x + 0.044715 * x**3)) | operator(
    "tanh", root * x * (1 + 0.044715 * x**2)
)


def gate(part: Pattern) -> Pattern:
    """x * (1 + part) / 2, as it is written or multiplied out."""
    return x * 0.5 * (1 + part) | x * (0.5 + 0.5 * part) | x * 0.5 + x * 0.5 * part


class FuseGelu(Rewrite):
    """Every GELU that is written in plain arithmetic."""

    patterns = (gate(half_normal), gate(approximate))

    def rewrite(self, match: Match) -> relax.Expr:
        exact = match.calls_of("erf")
        return (relax.op.nn.gelu if exact else relax.op.nn.gelu_tanh)(match.value("x"))
