"""Activations for layers that multiply short numbers, or end in some, at half the usual price.

Factors in bfloat16 were rounded by up to 2**-9 of themselves, those in int8 by more, so the
activation may be off by an eighth of that. NaN gives NaN, infinity infinity, minus infinity 0.

All are x * P(x), where P rises from 0 to 1 and P(-x) is 1 - P(x), so that

    x * P(x) = max(x, 0) - |x| * P(-|x|)

and P(-|x|) is (limit - |x|) * polynomial(|x|), 0 from the limit on: no division, no exponential.
The coefficients were fitted for this file: linear programming for the smallest greatest error,
which is 2.3e-4 * |x| (tests/schedules/test_math.py).
"""

from __future__ import annotations

from collections.abc import Callable

from pocketformer.schedules.cpu import activations
from pocketformer.schedules.cpu.activations import relu
from pocketformer.schedules.cpu.math import Expr, constant, fabs, held, let, polynomial

_GELU = (3.54, (0.141179, -0.0708703, -0.0296324, 0.0279554, -0.00664178, 0.000510737))
_GELU_TANH = (3.5, (0.142798, -0.0713576, -0.0295957, 0.0277757, -0.00655576, 0.000499473))
_SILU = (8.9, (0.0561632, -0.0213825, -0.00396059, 0.00419532, -0.00112188, 0.000147146,
               -9.70489e-06, 2.56753e-07))


def _gated(x: Expr, limit: float, coefficients: tuple[float, ...]) -> Expr:
    def body(x: Expr) -> Expr:
        return let(held(fabs(x), limit), lambda size: (
            relu(x) - size * (constant(limit, x) - size) * polynomial(size, coefficients)), "size")

    return let(x, body, "x")


def gelu(x: Expr) -> Expr:
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    return _gated(x, *_GELU)


def gelu_tanh(x: Expr) -> Expr:
    """x * sigmoid(2 z), z = sqrt(2 / pi) * (x + 0.044715 x^3)."""
    return _gated(x, *_GELU_TANH)


def silu(x: Expr) -> Expr:
    """x * sigmoid(x)."""
    return _gated(x, *_SILU)


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    **activations.ACTIVATIONS, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}
