"""A fused operator: a private Relax function that says what is computed, in plain Relax operators.

Its attribute `Composite` is the fused operator's name and `options` its settings; the body is the
meaning, so that a composite for which no kernel is picked is simply inlined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax, tirx
from tvm.ir import Array, GlobalVar, IRModule, Span

from pocketformer.passes.entries import with_entries

Body = Callable[..., relax.Expr]


class Composites:
    """Collects composite functions for a module; equal ones are kept once."""

    def __init__(self, mod: IRModule) -> None:
        self._mod = mod
        self._builder = relax.BlockBuilder(mod)

    def call(
        self,
        name: str,
        args: Sequence[relax.Expr],
        body: Body,
        options: Mapping[str, Any],
        span: Span | None,
    ) -> relax.Call:
        """A call of the composite `name`, whose meaning is `body(*parameters)`."""
        func = _function(name, args, body, options)
        gvar = self._builder.add_func(func, f"fused_{name}")
        return self._builder.normalize(relax.Call(gvar, list(args), None, [], span))

    def module(self, entries: Mapping[GlobalVar, relax.Function]) -> IRModule:
        """The module with the rewritten `entries` and all composites that were called."""
        return with_entries(self._builder, self._mod, entries)


def composite_of(mod: IRModule, expr: relax.Expr) -> tuple[str, relax.Function] | None:
    """The name and function of the composite that `expr` calls, or None."""
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, GlobalVar):
        return None
    func = mod[expr.op]
    if not isinstance(func, relax.Function) or "Composite" not in (func.attrs or {}):
        return None
    return str(func.attrs["Composite"]), func


def options_of(func: relax.Function) -> dict[str, Any]:
    """The settings that a composite was made with."""
    return {str(key): _plain(value) for key, value in func.attrs["options"].items()}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, Array) else value


def _function(
    name: str, args: Sequence[relax.Expr], body: Body, options: Mapping[str, Any]
) -> relax.Function:
    own: dict[str, tirx.Var] = {}
    params = [
        relax.Var(f"arg{i}", relax.TensorType([_own(s, own) for s in arg.ty.shape], arg.ty.dtype))
        for i, arg in enumerate(args)
    ]
    attrs = {"Composite": name, "options": dict(options)}
    builder = relax.BlockBuilder()
    with builder.function("fused", params, attrs=attrs, private=True):
        with builder.dataflow():
            out = builder.emit_output(body(*params))
        builder.emit_func_output(out)
    return builder.get()["fused"]


def _own(size: tirx.PrimExpr, own: dict[str, tirx.Var]) -> tirx.PrimExpr:
    """A variable of the composite's own for each distinct symbolic size of its caller."""
    if isinstance(size, tirx.IntImm):
        return size
    return own.setdefault(str(size), tirx.Var(f"n{len(own)}", "int64"))
