"""Polynomials and rational functions in place of libm: exp, erf, tanh, sin and cos.

Every function takes a float32 expression, scalar or vector, and returns one of the same type that
names its argument once (`Let`), so nothing is computed twice. They use only add, multiply, divide,
compare and integer operations, which every vector unit has. NaN gives NaN, infinities the limits.

The coefficients were fitted for this file: reweighted least squares in float64 for the smallest
greatest relative error, then rounded to float32. The errors below are against float64, over every
range where the result is finite (tests/schedules/test_math.py).

    exp, exp2        relative 1e-7; results below 2**-125 are 0
    exp_nonpositive  relative 4e-7; the same
    sigmoid          relative 2e-7
    erf, tanh        relative 4e-7
    sin, cos         absolute 1e-7 for |x| <= 1e5; beyond 1e6 only within -1..1
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from tvm import tirx

Expr = Any     # a tirx expression of float32, scalar or vector

# 1.5 * 2**23: adding it leaves a float's nearest integer in the low bits of its pattern.
ROUND = 12582912.0
ROUND_BITS = 0x4B400000     # its pattern
MAGNITUDE = 0x7FFFFFFF      # all bits of a float32 number but its sign
INFINITY = 0x7F800000       # its bits; those of NaNs are greater
_WHOLE = 8388608.0      # 2**23: floats from here on are whole numbers
_LOG2E = 1.4426950408889634
# ln 2 in two parts; the first has so few bits that its product with any exponent is exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4

_EXP = (0.49999993, 0.16666521, 0.04166839, 0.00836871, 0.00138146)   # (e^r - 1 - r) / r^2
_EXP_SHORT = (0.499992315, 0.166671147, 0.0418901579, 0.00831252043)    # the same
_ERF_P = (1.12837911, 0.191549808, 0.0528753884, 0.00380814145, 0.000284687383, 2.02591286e-06)
_ERF_Q = (1.0, 0.503089249, 0.114559419, 0.0150550511, 0.00117072102, 3.78318327e-05)
_TANH_P = (1.0, 0.133797288, 0.00349404686, 2.05836677e-05, 1.33193003e-08)
_TANH_Q = (1.0, 0.467130452, 0.0258711204, 0.000328311231, 7.76211948e-07)
_SIN = (-0.166666552, 0.00833215844, -0.000195149536)                # (sin r - r) / r^3 in r^2
_COS = (0.0416666456, -0.00138873642, 2.44380863e-05)                # (cos r - 1 + r^2/2) / r^4
# pi / 2 in three parts; products of the first two with 16-bit integers are exact.
_HALF_PI = (1.5703125, 4.8375129699707031e-4, 7.5497899548918821e-8)
_ERF_LIMIT = 3.95      # from here on erf is 1 - 2e-8, which float32 cannot tell from 1
_TANH_LIMIT = 9.02     # from here on tanh is 1 - 3e-8


def constant(value: float, like: Expr) -> Expr:
    """`value` in the type of the expression `like`."""
    return tirx.const(value, str(like.ty))


def let(value: Expr, body: Callable[[Expr], Expr], name: str = "t") -> Expr:
    """`body` of a variable that stands for `value`."""
    variable = tirx.Var(name, value.ty)
    return tirx.Let(variable, value, body(variable))


def polynomial(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """The polynomial with these coefficients, the constant first, by Horner's rule."""
    result = constant(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + constant(coefficient, x)
    return result


def at_least(low: float, x: Expr) -> Expr:
    """The greater of `low`, which is not 0, and x, by one instruction. NaN stays NaN."""
    assert low != 0.0
    return tirx.call_llvm_pure_intrin(str(x.ty), "llvm.maximum", constant(low, x), x)


def at_most(high: float, x: Expr) -> Expr:
    """The lesser of `high`, which is not 0, and x, by one instruction. NaN stays NaN."""
    assert high != 0.0
    return tirx.call_llvm_pure_intrin(str(x.ty), "llvm.minimum", constant(high, x), x)


def fabs(x: Expr) -> Expr:
    """|x|."""
    return tirx.call_llvm_pure_intrin(str(x.ty), "llvm.fabs", x)


def nearest(x: Expr) -> Expr:
    """x as a whole number, ties to even, by an instruction: elsewhere a call of libm."""
    return tirx.call_llvm_pure_intrin(str(x.ty), "llvm.nearbyint", x)


def nearest_by_sum(x: Expr) -> Expr:
    """The same by additions: from 2**23 on there are only whole numbers."""
    def rounded(x: Expr) -> Expr:
        magic = signed_like(x, _WHOLE)
        return let(x + magic, lambda total: tirx.Select(
            fabs(x) < constant(_WHOLE, x), total - magic, x), "total")

    return let(x, rounded, "x")


def held(size: Expr, limit: float) -> Expr:
    """The lesser of `size`, at least 0, and `limit`; `limit` for NaN.

    As integers, which for positive numbers is the same, and one instruction.
    """
    integers = _integer_type(size)
    lesser = tirx.min(tirx.reinterpret(integers, size),
                      tirx.reinterpret(integers, constant(limit, size)))
    return tirx.reinterpret(str(size.ty), lesser)


def _integer_type(x: Expr) -> str:
    return str(x.ty).replace("float32", "int32")


def signed_like(x: Expr, size: float) -> Expr:
    """`size` with the sign of x."""
    integers = _integer_type(x)
    sign = tirx.reinterpret(integers, x) & tirx.const(-1 << 31, integers)
    return tirx.reinterpret(str(x.ty), sign | tirx.reinterpret(integers, constant(size, x)))


def _half_power_of_two(rounded: Expr) -> Expr:
    """2**(n - 1) where `rounded` is n + ROUND and n in -126..128; 0 for n = -126."""
    dtype = _integer_type(rounded)
    bits = tirx.reinterpret(dtype, rounded) + tirx.const(126, dtype)
    return tirx.reinterpret(str(rounded.ty), bits << tirx.const(23, dtype))


def exp(x: Expr) -> Expr:
    """e**x as 2**n * e**r, |r| <= ln(2) / 2; the factor 2 that 2**(n - 1) lacks is in the terms."""
    terms = (2.0, 2.0, *(2.0 * c for c in _EXP))

    def reduced(x: Expr) -> Expr:
        return let(
            x * constant(_LOG2E, x) + constant(ROUND, x),
            lambda rounded: let(
                rounded - constant(ROUND, x),
                lambda n: let(
                    x - n * constant(_LN2_HIGH, x) - n * constant(_LN2_LOW, x),
                    lambda r: polynomial(r, terms) * _half_power_of_two(rounded),
                    "r",
                ),
                "n",
            ),
            "rounded",
        )

    return let(at_most(89.0, at_least(-87.3, x)), reduced, "x")


def exp_nonpositive(x: Expr) -> Expr:
    """e**x for x <= 0 in three quarters of the operations of `exp`, as for a softmax."""
    terms = (2.0, 2.0, *(2.0 * c for c in _EXP_SHORT))

    def reduced(x: Expr) -> Expr:
        return let(
            x * constant(_LOG2E, x) + constant(ROUND, x),
            lambda rounded: let(
                x - (rounded - constant(ROUND, x)) * constant(1.0 / _LOG2E, x),
                lambda r: polynomial(r, terms) * _half_power_of_two(rounded),
                "r",
            ),
            "rounded",
        )

    return let(at_least(-87.3, x), reduced, "x")


def exp2(x: Expr) -> Expr:
    """2**x, as `exp` with r = (x - n) ln 2, which is exact but for one rounding."""
    terms = (2.0, 2.0, *(2.0 * c for c in _EXP))

    def reduced(x: Expr) -> Expr:
        return let(
            x + constant(ROUND, x),
            lambda rounded: let(
                (x - (rounded - constant(ROUND, x))) * constant(1.0 / _LOG2E, x),
                lambda r: polynomial(r, terms) * _half_power_of_two(rounded),
                "r",
            ),
            "rounded",
        )

    return let(at_most(128.25, at_least(-126.0, x)), reduced, "x")


def _odd_rational(
    x: Expr, limit: float, top: tuple[float, ...], bottom: tuple[float, ...]
) -> Expr:
    """x * top(x^2) / bottom(x^2) with x held within +-limit and the result within +-1."""
    def quotient(x: Expr) -> Expr:
        return let(
            x * x,
            lambda square: x * polynomial(square, top) / polynomial(square, bottom),
            "square",
        )

    held = at_most(limit, at_least(-limit, x))
    return at_most(1.0, at_least(-1.0, let(held, quotient, "x")))


def erf(x: Expr) -> Expr:
    """The error function."""
    return _odd_rational(x, _ERF_LIMIT, _ERF_P, _ERF_Q)


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent."""
    return _odd_rational(x, _TANH_LIMIT, _TANH_P, _TANH_Q)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    one = constant(1.0, x)
    return one / (one + exp(constant(0.0, x) - x))


def _sine(x: Expr, quarter: int) -> Expr:
    """sin(x + quarter * pi / 2): k quarters and a rest r, |r| <= pi / 4."""
    integers = _integer_type(x)

    def rest(rounded: Expr) -> Expr:
        k = rounded - constant(ROUND, x)
        r = reduce(lambda left, part: left - k * constant(part, x), _HALF_PI, x)
        return at_most(0.8, at_least(-0.8, r))     # keeps the result in -1..1 where x is huge

    def value(r: Expr, quarters: Expr) -> Expr:
        square = r * r
        sine = r + r * square * polynomial(square, _SIN)
        cosine = constant(1.0, x) - constant(0.5, x) * square + square * square * polynomial(
            square, _COS)
        one = tirx.const(1, integers)
        chosen = tirx.Select((quarters & one) == one, cosine, sine)
        sign = (quarters & tirx.const(2, integers)) << tirx.const(30, integers)
        return tirx.reinterpret(str(x.ty), tirx.reinterpret(integers, chosen) ^ sign)

    return let(
        x * constant(1.0 / 1.5707963267948966, x) + constant(ROUND, x),
        lambda rounded: let(
            tirx.reinterpret(integers, rounded) + tirx.const(quarter, integers),
            lambda quarters: let(rest(rounded), lambda r: value(r, quarters), "r"),
            "quarters",
        ),
        "rounded",
    )


def sin(x: Expr) -> Expr:
    """The sine."""
    return let(x, lambda x: _sine(x, 0), "x")


def cos(x: Expr) -> Expr:
    """The cosine."""
    return let(x, lambda x: _sine(x, 1), "x")
