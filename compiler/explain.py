"""For every operator of the source: the kernel that runs it, or why it needs none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tvm import relax
from tvm.ir import GlobalVar, IRModule

from pocketformer.compiler.manifest import OperatorRecord
from pocketformer.compiler.model import Operator
from pocketformer.compiler.pipeline import VIEWS
from pocketformer.passes.graph import Graph, entry_functions, op_name, sources
from pocketformer.passes.refusal import LOG

FOLDED = "computed at compile time"
VIEW = "a view, no kernel"
MERGED = "the same as, or undone by, another operator"


class Explanation(logging.Handler):
    """Watches a compilation: collects refusals, and follows operators into kernels."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._refusals: dict[str, list[str]] = {}
        self._kernels: dict[str, str] = {}
        self._operators: dict[str, tuple[str, ...]] = {}
        self._unfused: dict[str, int] = {}
        self._computed: set[str] = set()
        self._views: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[Explanation]:
        """Collect what the passes refuse while this is entered."""
        level = LOG.level
        LOG.setLevel(logging.INFO)
        LOG.addHandler(self)
        try:
            yield self
        finally:
            LOG.removeHandler(self)
            LOG.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        for operator in getattr(record, "operators", ()):
            reasons = self._refusals.setdefault(operator, [])
            text = f"{record.pass_name}: {record.reason}"    # type: ignore[attr-defined]
            if text not in reasons:
                reasons.append(text)

    def watch(self, step: str, mod: IRModule) -> None:
        """Read the module at the steps where operators turn into kernels."""
        match step:
            case "canonicalize":
                self._read_imported(mod)
            case "canonicalize_folded":
                self._read_picked(mod)
            case "annotate_patterns":
                self._unfused = {name: i for i, (name, _) in enumerate(_bindings(mod))}
            case "fuse_ops":
                self._read_fused(mod)

    def records(self, operators: tuple[Operator, ...]) -> list[OperatorRecord]:
        """One record an operator of the source, in its order."""
        return [
            OperatorRecord(
                name=operator.name,
                kind=operator.kind,
                kernel=self._kernels.get(operator.name),
                note=self._note(operator.name),
            )
            for operator in operators
        ]

    def _note(self, operator: str) -> str:
        if operator in self._refusals:
            return "; ".join(self._refusals[operator])
        if operator in self._kernels:
            return ""
        if operator in self._views:
            return VIEW
        return MERGED if operator in self._computed else FOLDED

    def _read_imported(self, mod: IRModule) -> None:
        for _, func in entry_functions(mod):
            graph = Graph(func)
            for var, value in graph:
                if not graph.is_weight(var):
                    self._computed.update(sources(value))

    def _read_picked(self, mod: IRModule) -> None:
        for name, value in _bindings(mod):
            self._operators[name] = sources(value)
            if kernel := _kernel(value):
                self._ran(name, kernel)

    def _read_fused(self, mod: IRModule) -> None:
        fused = {
            name: _bound(mod[value.op])
            for name, value in _bindings(mod)
            if isinstance(value, relax.Call) and isinstance(value.op, GlobalVar)
        }
        lost = set(self._unfused) - {name for name, _ in _bindings(mod)}
        lost -= {inner for bound in fused.values() for inner in bound}
        for name, value in _bindings(mod):
            if name in fused:
                for inner in [*fused[name], *self._last_of(fused[name], lost)]:
                    self._ran(inner, value.op.name_hint)
            elif kernel := _kernel(value):
                self._ran(name, kernel)
            elif op_name(value) in VIEWS:
                self._views.update(self._operators.get(name, ()))

    def _last_of(self, bound: list[str], lost: set[str]) -> list[str]:
        """The operator that ends a fused group, which is the only one that loses its name there."""
        start = max((self._unfused.get(name, -1) for name in bound), default=-1)
        after = sorted(name for name in lost if self._unfused[name] > start)
        if not after:
            return []
        last = min(after, key=self._unfused.__getitem__)
        lost.discard(last)
        return [last]

    def _ran(self, variable: str, kernel: str) -> None:
        for operator in self._operators.get(variable, ()):
            self._kernels.setdefault(operator, kernel)


def _bindings(mod: IRModule) -> list[tuple[str, relax.Expr]]:
    """The bindings of the first entry function, which stands for the others."""
    func = next(func for gvar, func in entry_functions(mod) if gvar.name_hint == "main")
    return [(b.var.name, b.value) for block in func.body.blocks for b in block.bindings]


def _bound(func: relax.Function) -> list[str]:
    return [binding.var.name for block in func.body.blocks for binding in block.bindings]


def _kernel(expr: relax.Expr) -> str | None:
    """The kernel that a call_tir calls."""
    return str(expr.args[0].name_hint) if op_name(expr) == "relax.call_tir" else None
