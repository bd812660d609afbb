"""What the fusions share: patterns are sought from a function's end to its start, and replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tvm import relax
from tvm.ir import IRModule
from tvm.sym import Analyzer

from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Graph, Replacement, emit, join_spans, normalize, op_name
from pocketformer.passes.pattern import Found, Pattern
from pocketformer.passes.refusal import Refused, note_refusal, pass_name

__all__ = ["Match", "Refused", "Rewrite", "same_type", "through"]


@dataclass(frozen=True)
class Match:
    """What a pattern found: the variable `root` and all that it was computed from."""

    graph: Graph
    root: relax.Var
    found: Found

    def value(self, name: str) -> relax.Expr:
        """The operand that `Value(name)` stands for."""
        return self.found.values[name]

    def number(self, name: str) -> float:
        """The constant that `Scalar(name)` stands for."""
        return self.found.numbers[name]

    @property
    def type(self) -> relax.TensorType:
        return self.root.ty

    @property
    def call(self) -> relax.Call:
        """The last operator."""
        return self.graph.producer[self.root]

    @property
    def calls(self) -> list[relax.Call]:
        """Every operator that was matched, once, in the order of the function."""
        matched = {*self.found.calls, self.root}
        return [value for var, value in self.graph if var in matched]

    def calls_of(self, *names: str) -> list[relax.Call]:
        """Those that are calls of `relax.<name>`."""
        return [call for call in self.calls if op_name(call).removeprefix("relax.") in names]


class Rewrite(ABC):
    """A fusion as data: `patterns`, the first that fits counts, and what to write instead.

    A pass is an instance: called with an IRModule it returns a new one, or the same if nothing
    fits. The new call has the name of the last operator that it replaces and the source operators
    of them all. An operator that is replaced disappears if nothing else uses it. `rewrite` may
    raise Refused.
    """

    patterns: ClassVar[tuple[Pattern, ...]] = ()

    @abstractmethod
    def rewrite(self, match: Match) -> relax.Expr:
        """What to compute instead, in calls of Relax operators on what the match found."""

    def __call__(self, mod: IRModule) -> IRModule:
        mod = _without_aliases(mod)
        rewritten = {gvar: self._function(func) for gvar, func in entry_functions(mod)}
        if all(func.same_as(mod[gvar]) for gvar, func in rewritten.items()):
            return mod
        functions = {**dict(mod.functions.items()), **rewritten}
        return _without_aliases(IRModule(functions, attrs=mod.attrs))

    def matches(self, graph: Graph, var: relax.Var) -> Iterator[Match]:
        """Every way in which the computation of `var` fits this fusion."""
        if not (name := op_name(graph.producer[var])):
            return
        for pattern in self.patterns:
            if name in pattern.heads():
                for found in pattern.match(graph, var, Found()):
                    yield Match(graph, var, found)

    def _function(self, func: relax.Function) -> relax.Function:
        graph = Graph(func)
        replacements: dict[relax.Var, Replacement] = {}
        live = set(graph.outputs)
        refused: set[relax.Var] = set()    # parts of a match that was refused: one reason is enough
        # Operators that turned out to leave a variable as it is: its own operator stands for them.
        dissolved: dict[relax.Var, list[relax.Call]] = {}
        for var, old in reversed(list(graph)):
            if var not in live:
                continue
            new, calls = self._replacement(graph, var, refused) or (Replacement(old), [])
            calls += dissolved.get(var, [])
            if isinstance(new.value, relax.Var):
                dissolved.setdefault(new.value, []).extend(calls)
            elif calls:
                new.value = normalize(new.value, join_spans([new.value, *calls]))
            if not new.value.same_as(old):
                replacements[var] = new
            for value in [new.value, *(binding.value for binding in new.before)]:
                live.update(graph.used(value))
        return graph.replaced(replacements) if replacements else func

    def _replacement(
        self, graph: Graph, var: relax.Var, refused: set[relax.Var]
    ) -> tuple[Replacement, list[relax.Call]] | None:
        """What to put in place of `var`, and the operators that this stands for."""
        for match in self.matches(graph, var):
            try:
                return _place(match, self.rewrite(match)), match.calls
            except Refused as reason:
                if var not in refused:
                    note_refusal(pass_name(self), match.call, reason)
                refused.update(match.found.calls)
        return None


def through(graph: Graph, expr: relax.Expr, *names: str) -> tuple[relax.Expr, list[relax.Call]]:
    """Look through the calls of operators `names` above `expr`, along their first arguments.

    Returns the first value that is none of them, and the calls passed, the last operator first.
    """
    passed = []
    while op_name(call := graph.value(expr)) in names:
        passed.append(call)
        expr = call.args[0]
    return expr, passed


def _without_aliases(mod: IRModule) -> IRModule:
    blocks = (block for _, func in entry_functions(mod) for block in func.body.blocks)
    if any(isinstance(binding.value, relax.Var) for block in blocks for binding in block.bindings):
        return relax.transform.CanonicalizeBindings()(mod)
    return mod


def _place(match: Match, new: relax.Expr) -> Replacement:
    """`new` in place of the match's root, each of its calls bound to a variable of its own."""
    before: list[relax.VarBinding] = []
    span = join_spans(match.calls)

    def leaf(expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([leaf(part) for part in expr.fields])
        if not isinstance(expr, relax.Call):
            return expr
        return emit(before, flat(expr), f"{match.root.name}_{len(before)}", span)

    def flat(call: relax.Call) -> relax.Call:
        args = [leaf(arg) for arg in call.args]
        return relax.Call(call.op, args, call.attrs, call.ty_args, call.span)

    value = normalize(flat(new)) if isinstance(new, relax.Call) else new
    if not same_type(value.ty, match.type):
        raise Refused(f"the result would be {value.ty}, not {match.type}")
    return Replacement(value, before)


def same_type(left: relax.Type, right: relax.Type) -> bool:
    """Whether both are tensors of one dtype and provably of one shape."""
    if not isinstance(left, relax.TensorType) or not isinstance(right, relax.TensorType):
        return False
    if left.dtype != right.dtype or left.ndim != right.ndim:
        return False
    if left.shape is None or right.shape is None:
        return False
    prover = Analyzer()
    return all(prover.can_prove_equal(a, b) for a, b in zip(left.shape, right.shape, strict=True))
