"""For every operator of the source: the kernel that runs it, or why it needs none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tvm import relax
from tvm.ir import GlobalVar, IRModule

from pocketformer.compiler.manifest import OperatorRecord
from pocketformer.compiler.model import Operator
from pocketformer.passes.graph import entry_functions, sources
from pocketformer.passes.refusal import LOG

FOLDED = "computed at compile time"
VIEW = "a view, no kernel"


class Explanation(logging.Handler):
    """Watches a compilation: collects refusals, and follows operators into kernels."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._refusals: dict[str, list[str]] = {}
        self._kernels: dict[str, str] = {}
        self._operators: dict[str, tuple[str, ...]] = {}

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
        """Read the module at the two steps where operators have just become kernels."""
        if step == "canonicalize_folded":
            self._read_picked(mod)
        elif step == "fuse_ops":
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
        return "" if operator in self._kernels else FOLDED

    def _read_picked(self, mod: IRModule) -> None:
        for _, func in entry_functions(mod):
            for block in func.body.blocks:
                for binding in block.bindings:
                    names = sources(binding.value)
                    self._operators[binding.var.name] = names
                    if kernel := _kernel(binding.value):
                        self._kernels.update(dict.fromkeys(names, kernel))

    def _read_fused(self, mod: IRModule) -> None:
        for _, func in entry_functions(mod):
            for block in func.body.blocks:
                for binding in block.bindings:
                    call = binding.value
                    if not isinstance(call, relax.Call):
                        continue
                    if isinstance(call.op, GlobalVar):
                        inner = mod[call.op]
                        for name in _bound(inner):
                            self._ran(name, call.op.name_hint)
                    if kernel := _kernel(call):
                        self._ran(binding.var.name, kernel)

    def _ran(self, variable: str, kernel: str) -> None:
        for operator in self._operators.get(variable, ()):
            self._kernels.setdefault(operator, kernel)


def _bound(func: relax.Function) -> list[str]:
    return [binding.var.name for block in func.body.blocks for binding in block.bindings]


def _kernel(expr: relax.Expr) -> str | None:
    """The kernel that a call_tir calls."""
    if isinstance(expr, relax.Call) and getattr(expr.op, "name", "") == "relax.call_tir":
        return str(expr.args[0].name_hint)
    return None
