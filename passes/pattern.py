"""Patterns written like the model's code: `x * 0.5 * (1 + erf(x / 2**0.5))` finds every such GELU.

Sums and products match in any order and grouping, a division by a constant as a multiplication; a
power matches repeated multiplication too. `a | b` matches either. Built on Relax's own operators.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple, TypeAlias

from tvm import relax
from tvm.ir import Expr

from pocketformer.passes.graph import Graph, op_name, scalar

TOLERANCE = 1e-4    # models write sqrt(2) as 1.4142 and the reciprocal of it as 0.7071

Operand: TypeAlias = "Expr | float"    # a number that is divided by is multiplied with, inverted


@dataclass(frozen=True)
class Found:
    """What has been matched so far: values and numbers by name, and the variables of all calls."""

    values: Mapping[str, relax.Expr] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    calls: tuple[relax.Var, ...] = ()


class Pattern(ABC):
    """Something that an operand may look like; operators on patterns give patterns."""

    @abstractmethod
    def match(self, graph: Graph, operand: Operand, found: Found) -> Iterator[Found]:
        """Every way in which `operand` fits, with what it adds to `found`."""

    def heads(self) -> frozenset[str]:
        """The operators that a match can end in."""
        return frozenset()

    def __add__(self, other: Pattern | float) -> Pattern:
        return _chain(SUM, self, _pattern(other))

    def __mul__(self, other: Pattern | float) -> Pattern:
        return _chain(PRODUCT, self, _pattern(other))

    def __sub__(self, other: Pattern | float) -> Pattern:
        return Operator("relax.subtract", (self, _pattern(other)))

    def __truediv__(self, other: Pattern | float) -> Pattern:
        if isinstance(other, Pattern):
            return Operator("relax.divide", (self, other))
        return self * (1 / other)

    def __rtruediv__(self, other: float) -> Pattern:
        return Operator("relax.divide", (Number(other), self))

    def __pow__(self, exponent: float) -> Pattern:
        power: Pattern = Operator("relax.power", (self, Number(exponent)))
        if exponent == 2:
            return power | Operator("relax.square", (self,)) | self * self
        if exponent == 3:
            return power | self * self**2
        return power

    def __or__(self, other: Pattern) -> Pattern:
        return Either((*_choices(self), *_choices(other)))

    __radd__ = __add__
    __rmul__ = __mul__


@dataclass(frozen=True)
class Value(Pattern):
    """Anything; a name that occurs twice stands for the same value."""

    name: str

    def match(self, graph: Graph, operand: Operand, found: Found) -> Iterator[Found]:
        if not isinstance(operand, float):
            bound = found.values.get(self.name)
            if bound is None:
                yield replace(found, values={**found.values, self.name: operand})
            elif bound.same_as(operand):
                yield found


@dataclass(frozen=True)
class Scalar(Pattern):
    """Any constant of one element."""

    name: str

    def match(self, graph: Graph, operand: Operand, found: Found) -> Iterator[Found]:
        if (number := _number(operand)) is not None:
            yield replace(found, numbers={**found.numbers, self.name: number})


@dataclass(frozen=True)
class Number(Pattern):
    """A constant of one element with this value."""

    value: float

    def match(self, graph: Graph, operand: Operand, found: Found) -> Iterator[Found]:
        number = _number(operand)
        if number is not None and math.isclose(number, self.value, rel_tol=TOLERANCE):
            yield found


@dataclass(frozen=True)
class Operator(Pattern):
    """A call of the Relax operator `name`."""

    name: str
    args: tuple[Pattern, ...]

    def match(self, graph: Graph, operand: Operand, found: Found) -> Iterator[Found]:
        call = _call(graph, operand)
        if call is None or op_name(call) != self.name:
            return
        if len(call.args) >= len(self.args):
            found = replace(found, calls=(*found.calls, operand))
            yield from _match_all(graph, list(self.args), list(call.args), found)

    def heads(self) -> frozenset[str]:
        return frozenset({self.name})


@dataclass(frozen=True)
class Either(Pattern):
    """What fits one of several patterns."""

    choices: tuple[Pattern, ...]

    def match(self, graph: Graph, operand: Operand, found: Found) -> Iterator[Found]:
        return chain.from_iterable(one.match(graph, operand, found) for one in self.choices)

    def heads(self) -> frozenset[str]:
        return frozenset().union(*(choice.heads() for choice in self.choices))


class Associative(NamedTuple):
    """An operator whose grouping and order are free, and its inverse."""

    name: str
    inverse: str
    undo: Callable[[float], float]


SUM = Associative("relax.add", "relax.subtract", lambda number: -number)
PRODUCT = Associative(
    "relax.multiply", "relax.divide", lambda number: 1 / number if number else math.inf
)


@dataclass(frozen=True)
class Chain(Pattern):
    """A sum or product of at least two parts, in any order and grouping."""

    kind: Associative
    parts: tuple[Pattern, ...]

    def match(self, graph: Graph, operand: Operand, found: Found) -> Iterator[Found]:
        # The most telling parts first, so that a free value is bound already when its turn comes.
        ordered = sorted(self.parts, key=lambda part: isinstance(part, (Number, Scalar, Value)))
        for operands, calls in _groupings(graph, self.kind, operand, len(ordered)):
            inner = replace(found, calls=(*found.calls, *calls))
            yield from _match_any_order(graph, ordered, operands, inner)

    def heads(self) -> frozenset[str]:
        return frozenset({self.kind.name, self.kind.inverse})


def operator(name: str, *args: Pattern) -> Pattern:
    """A call of `relax.<name>` whose first arguments fit `args`."""
    return Operator(f"relax.{name}", args)


def _chain(kind: Associative, left: Pattern, right: Pattern) -> Pattern:
    sides = [_choices(left), _choices(right)]
    pairs = [(a, b) for a in sides[0] for b in sides[1]]
    chains = [Chain(kind, (*_parts(kind, a), *_parts(kind, b))) for a, b in pairs]
    return chains[0] if len(chains) == 1 else Either(tuple(chains))


def _choices(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.choices if isinstance(pattern, Either) else (pattern,)


def _parts(kind: Associative, pattern: Pattern) -> tuple[Pattern, ...]:
    if isinstance(pattern, Chain) and pattern.kind is kind:
        return pattern.parts
    return (pattern,)


def _pattern(value: Pattern | float) -> Pattern:
    return value if isinstance(value, Pattern) else Number(float(value))


def _number(operand: Operand) -> float | None:
    return operand if isinstance(operand, float) else scalar(operand)


def _call(graph: Graph, operand: Operand) -> relax.Call | None:
    value = graph.producer.get(operand) if isinstance(operand, relax.Var) else None
    return value if isinstance(value, relax.Call) else None


def _groupings(
    graph: Graph, kind: Associative, operand: Operand, count: int
) -> Iterator[tuple[list[Operand], tuple[relax.Var, ...]]]:
    """Every way to read `operand` as `count` parts, with the variables of the calls between."""
    if count == 1:
        yield [operand], ()
        return
    call = _call(graph, operand)
    if call is None or op_name(call) not in (kind.name, kind.inverse):
        return
    left, right = call.args
    if op_name(call) == kind.inverse:
        if (number := scalar(right)) is None:
            return
        right = kind.undo(number)
    for split in range(1, count):
        for first, above in _groupings(graph, kind, left, split):
            for second, below in _groupings(graph, kind, right, count - split):
                yield [*first, *second], (operand, *above, *below)


def _match_all(
    graph: Graph, patterns: list[Pattern], operands: list[Operand], found: Found
) -> Iterator[Found]:
    """Each pattern on the operand in its place."""
    if not patterns:
        yield found
        return
    for first in patterns[0].match(graph, operands[0], found):
        yield from _match_all(graph, patterns[1:], operands[1:], first)


def _match_any_order(
    graph: Graph, patterns: list[Pattern], operands: list[Operand], found: Found
) -> Iterator[Found]:
    """Each pattern on an operand of its own."""
    if not patterns:
        yield found
        return
    for i, operand in enumerate(operands):
        rest = operands[:i] + operands[i + 1 :]
        for first in patterns[0].match(graph, operand, found):
            yield from _match_any_order(graph, patterns[1:], rest, first)
