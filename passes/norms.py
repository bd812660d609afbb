"""What the norm fusions share: the pieces of their formulas, and what the fused operators need."""

from __future__ import annotations

from tvm import relax

from pocketformer.passes.graph import shape
from pocketformer.passes.pattern import Pattern, Scalar, operator
from pocketformer.passes.rewrite import Match, Refused

REDUCTIONS = ("mean", "variance")


def mean(x: Pattern) -> Pattern:
    return operator("mean", x)


def normalised(x: Pattern, square: Pattern, gamma: Pattern) -> Pattern:
    """x / sqrt(square + eps) * gamma."""
    inside = square + Scalar("eps")
    root = operator("sqrt", inside) | inside**0.5
    inverse = 1 / root | operator("rsqrt", inside) | inside**-0.5
    return x * gamma * inverse | x / root * gamma | x * gamma / root


def check_norm(match: Match, x: relax.Expr) -> int:
    """The size of the last axis of `x`; Refused unless the match normalises over just that axis."""
    if x.ty.dtype != "float32":
        raise Refused(f"its input is {x.ty.dtype}, a norm needs float32")
    rank = x.ty.ndim
    for reduction in match.calls_of(*REDUCTIONS):
        axes = reduction.attrs.axis
        axes = sorted(range(rank) if axes is None else (int(axis) % rank for axis in axes))
        if axes != [rank - 1]:
            raise Refused(f"its mean runs over axes {axes} of {rank}, not the last alone")
        if not reduction.attrs.keepdims:
            raise Refused("its mean drops the axis that it runs over")
    if not isinstance(size := shape(x)[-1], int):
        raise Refused(f"the size of its last axis, {size}, is not a constant")
    return size


def check_scale(name: str, scale: relax.Expr, size: int) -> None:
    """Refused unless `scale` has one element for every element of the last axis."""
    if scale.ty.ndim != 1 or shape(scale)[0] != size:
        sizes = ", ".join(map(str, shape(scale)))
        raise Refused(f"{name} has shape [{sizes}], a norm needs [{size}]")
