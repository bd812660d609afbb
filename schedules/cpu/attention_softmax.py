"""The softmax of attention in powers of two: scores and masks are multiplied by log2(e) before.

A row's greatest score is subtracted first, so no argument of the exponential is above 0.
"""

from __future__ import annotations

from functools import reduce

from tvm import tirx

from pocketformer.schedules.cpu.intrinsics import Isa
from pocketformer.schedules.cpu.kernel import Expr, splat
from pocketformer.schedules.cpu.math import ROUND, constant, let

LOG2E = 1.4426950408889634
HIDDEN = float("-inf")
LOWEST = -3.4028234663852886e38     # not -inf, from which nothing can be subtracted

# 2**r for |r| <= 1/2, fitted as those of math.py: relative error 7.5e-8.
# Of the short one: 7.5e-5.
_EXP2_SHORT = (0.999928057, 0.693260968, 0.242611125, 0.0551716685)
_EXP2 = (1.00000012, 0.693146944, 0.240221202, 0.0555071309, 0.00967554096, 0.00132764725)


def larger(isa: Isa, left: Expr, right: Expr) -> Expr:
    """The greater of two, neither of them NaN, in one instruction."""
    if isa.arch == "x86_64":
        return tirx.max(left, right)
    # There a comparison and a selection would stay two.
    return tirx.call_llvm_pure_intrin(str(left.ty), "llvm.maximum", left, right)


def exp2(isa: Isa, x: Expr) -> Expr:
    """2**x for x <= 0, as 2**n * 2**r with |r| <= 1/2; below -126 what it is there, 1e-38.

    Relative error 3e-7.
    """
    return _exp2(isa, x, _EXP2)


def exp2_short(isa: Isa, x: Expr, greatest: float) -> Expr:
    """`greatest` * 2**x for x <= 0 with a relative error of 8e-5, for what is rounded to 8 bits."""
    return _exp2(isa, x, tuple(greatest * c for c in _EXP2_SHORT))


def _exp2(isa: Isa, x: Expr, coefficients: tuple[float, ...]) -> Expr:
    integers, floats = str(x.ty).replace("float32", "int32"), str(x.ty)

    def number(value: float) -> Expr:
        return _kept(constant(value, x)) if isa.by_lane else constant(value, x)

    def power(n: Expr, r: Expr) -> Expr:
        terms = [number(c) for c in coefficients]
        value = tirx.reinterpret(integers, (_in_pairs if isa.by_lane else _by_horner)(r, terms))
        return tirx.reinterpret(floats, value + (n << tirx.const(23, integers)))

    def reduced(x: Expr) -> Expr:
        # As an integer, lest x + ROUND - ROUND be simplified.
        return let(tirx.reinterpret(integers, x + number(ROUND)), lambda n: let(
            x - (tirx.reinterpret(floats, n) - number(ROUND)), lambda r: power(n, r), "r"),
            "n")

    return let(larger(isa, x, number(-126.0)), reduced, "x")


def _kept(value: Expr) -> Expr:
    """`value` as something that the compiler does not know, and hence keeps in a register.

    It would put an Arm constant together anew at each use, in two or three instructions.
    """
    return tirx.call_llvm_pure_intrin(str(value.ty), "llvm.arithmetic.fence", value)


def _by_horner(r: Expr, terms: list[Expr]) -> Expr:
    return reduce(lambda value, term: value * r + term, terms[::-1])


def _in_pairs(r: Expr, terms: list[Expr]) -> Expr:
    """The same polynomial where a multiply-add overwrites its addend: fewer terms to copy."""
    pairs = [low + high * r for low, high in zip(terms[::2], terms[1::2], strict=True)]
    return let(r * r, lambda square: _by_horner(square, pairs), "square")


def share(total: Expr, lanes: int) -> Expr:
    """1 / the sum of a row's exponentials; 0 where no key was seen, for the greatest gives 1."""
    return tirx.Select(total < splat(0.5, lanes), splat(0.0, lanes), splat(1.0, lanes) / total)
