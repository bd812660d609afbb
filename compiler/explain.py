"""For every operator of the source: the kernel that runs it, or why it needs none."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tvm import relax
from tvm.ir import IRModule

from pocketformer.compiler.kernel_calls import Entry, KernelCalls, bindings, kernel_of
from pocketformer.compiler.manifest_records import OperatorRecord
from pocketformer.compiler.model import Operator
from pocketformer.compiler.pipeline import VIEWS
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Graph, op_name, sources
from pocketformer.passes.refusal import LOG

FOLDED = "computed at compile time"
VIEW = "a view, no kernel"
MERGED = "the same as, or undone by, another operator"


class Explanation(logging.Handler):
    """Watches a compilation: collects refusals, and follows operators into kernels.

    `calls` are the kernel calls that it saw.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.calls = KernelCalls()
        self._refusals: dict[str, list[str]] = {}
        self._kernels: dict[str, str] = {}
        self._computed: set[str] = set()
        self._views: set[str] = set()

    def fork(self) -> Explanation:
        """Another one that has seen the same so far: each level of a target goes its own way."""
        other = Explanation()
        other._refusals = {name: list(reasons) for name, reasons in self._refusals.items()}
        other._computed = set(self._computed)
        return other

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
        self.calls.watch(step, mod)
        match step:
            case "canonicalize":
                self._read_imported(mod)
            case "canonicalize_folded":
                self._read_picked(mod)
            case "fuse_ops":
                self._read_fused(mod)

    def records(self, operators: tuple[Operator, ...]) -> list[OperatorRecord]:
        """One record an operator of the source, in its order."""
        return [
            OperatorRecord(
                name=operator.name,
                kind=operator.kind,
                kernel=self._kernels.get(operator.name),
                note=operator.note or self._note(operator.name),
                precision=self.calls.precision.get(self._kernels.get(operator.name, ""), ""),
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
        for name, value in bindings(_main(mod)):
            if kernel := kernel_of(value):
                self._ran(self._main.operators.get(name, ()), kernel)

    def _read_fused(self, mod: IRModule) -> None:
        for call in self._main.calls:
            self._ran(call.operators, call.function)
        for name, value in bindings(_main(mod)):
            if op_name(value) in VIEWS:
                self._views.update(self._main.operators.get(name, ()))

    @property
    def _main(self) -> Entry:
        """The first entry, which stands for the others."""
        return self.calls.entries["main"]

    def _ran(self, operators: Iterable[str], kernel: str) -> None:
        for operator in operators:
            self._kernels.setdefault(operator, kernel)


def _main(mod: IRModule) -> relax.Function:
    return next(func for gvar, func in entry_functions(mod) if gvar.name_hint == "main")
