"""What layers end in: gelu, silu and their like, by the functions of math.py.

NaN gives NaN, infinities the limits (and NaN where the textbook's formula multiplies one by 0:
x * sigmoid(x) at minus infinity). The coefficients were fitted as those of math.py are; the errors
are against float64 (tests/schedules/test_math.py).

    gelu             absolute 3e-7 * |x|
    gelu_tanh, silu, quick_gelu    absolute 2e-7 * |x|

short_math.py has cheaper ones for layers that multiply short numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from pocketformer.schedules.cpu.math import (
    Expr,
    at_most,
    constant,
    fabs,
    held,
    let,
    polynomial,
    sigmoid,
    signed_like,
    tanh,
)

_GELU_P = (705365.607, 97489.9598, 10473.2547, 664.236192, 12.0228081)
_GELU_Q = (1768091.91, 539036.864, 71919.1322, 5413.55045, 238.308563, 1.0)
_GELU_LIMIT = 5.4      # the quotient was fitted to be above 1/2 here


def relu(x: Expr) -> Expr:
    """max(x, 0)."""
    return tirx.max(constant(0.0, x), x)     # this order lets NaN through


def silu(x: Expr) -> Expr:
    """x * sigmoid(x)."""
    return let(x, lambda x: x * sigmoid(x), "x")


def quick_gelu(x: Expr) -> Expr:
    """x * sigmoid(1.702 x)."""
    return let(x, lambda x: x * sigmoid(constant(1.702, x) * x), "x")


def gelu(x: Expr) -> Expr:
    """x / 2 * (1 + erf(x / sqrt(2))) as |x| * (P(|x|) - 1/2 +- 1/2), P the normal distribution."""
    def above_half(a: Expr) -> Expr:
        quotient = let(a * a, lambda square: (
            a * polynomial(square, _GELU_P) / polynomial(square, _GELU_Q)), "square")
        return at_most(0.5, quotient)

    def body(x: Expr) -> Expr:
        half = signed_like(x, 0.5)
        return let(fabs(x), lambda size: (
            size * (half + let(held(size, _GELU_LIMIT), above_half, "held"))), "size")

    return let(x, body, "x")


def gelu_tanh(x: Expr) -> Expr:
    """x / 2 * (1 + tanh(z)), z = sqrt(2 / pi) * (x + 0.044715 x^3), which is x * sigmoid(2 z)."""
    def body(x: Expr) -> Expr:
        slope = constant(1.5957691216057308, x)
        cubic = constant(0.07135481282738084, x)
        return x * sigmoid(x * (slope + cubic * (x * x)))

    return let(x, body, "x")


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "": lambda x: x,
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "quick_gelu": quick_gelu,
}
