"""What fusions into composites share: every operator is tried, what is found replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes.composite import Composites
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Graph, Replacement
from pocketformer.passes.refusal import Refused, note_refusal, pass_name


@dataclass(frozen=True)
class Search:
    """A function that is searched, and what was found in it so far."""

    mod: IRModule
    graph: Graph
    composites: Composites
    replacements: dict[relax.Var, Replacement] = field(default_factory=dict)


class Fusion(ABC):
    """A pass that puts calls of composites in place of what its `find` finds."""

    def __call__(self, mod: IRModule) -> IRModule:
        composites = Composites(mod)
        return composites.module(
            {gvar: self._function(mod, func, composites) for gvar, func in entry_functions(mod)}
        )

    @abstractmethod
    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The variable to replace for the operator `call` of `var`, and by what.

        None where the operator is of no interest; raises Refused where it is but does not fit.
        """

    def _function(
        self, mod: IRModule, func: relax.Function, composites: Composites
    ) -> relax.Function:
        search = Search(mod, Graph(func), composites)
        for var, value in search.graph:
            try:
                if found := self.find(search, var, value):
                    search.replacements[found[0]] = found[1]
            except Refused as reason:
                note_refusal(pass_name(self), value, reason)
        return search.graph.replaced(search.replacements)
