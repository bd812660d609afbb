"""What the rewrites of quantised operators share: integers with scale and zero, and a writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import relax
from tvm.ir import GenericConst, Span

from pocketformer.passes.fold_quantization import WHOLE, per_tensor
from pocketformer.passes.fusion import Search
from pocketformer.passes.graph import Graph, Replacement, constant, dtype, emit, normalize, op_name


@dataclass(eq=False)
class Integers:
    """(whole - zero) * scale: whole int8 or uint8 [..., k], zero and scale of one element."""

    whole: relax.Expr
    zero: relax.Expr
    scale: relax.Expr | None = None


@dataclass
class Writer:
    """What replaces `var`: `before` are the bindings that its new value needs."""

    search: Search
    var: relax.Var
    span: Span | None
    before: list[relax.VarBinding] = field(default_factory=list)

    def emit(self, value: relax.Expr, name: str) -> relax.Expr:
        return emit(self.before, value, f"{self.var.name}_{name}", self.span)

    def composite(
        self, body: Callable[..., relax.Expr], args: list[relax.Expr], options: dict[str, Any]
    ) -> relax.Call:
        return self.search.composites.call(
            body.__name__, args, lambda *a: body(*a, **options), options, self.span)

    def done(self, value: relax.Expr) -> tuple[relax.Var, Replacement]:
        return self.var, Replacement(normalize(value, self.span), self.before)


def integers_in(graph: Graph, expr: relax.Expr) -> Integers | None:
    """What is dequantised to float32 where `expr` is, with one scale and zero for all."""
    call = graph.value(expr)
    if op_name(call) != "relax.dequantize" or dtype(call) != "float32" or not per_tensor(call):
        return None
    whole, scale, zero = call.args
    return Integers(whole, zero, scale) if dtype(whole) in WHOLE else None


def zero_of(writer: Writer, zero: relax.Expr) -> relax.Expr:
    """A zero as a kernel takes it: int32 [1]."""
    if isinstance(zero, GenericConst):
        return relax.const(constant(zero).astype("int32").reshape(1))
    return writer.emit(relax.op.astype(relax.op.reshape(zero, [1]), "int32"), "zero")


def zeros_of(writer: Writer, zero: relax.Expr) -> list[relax.Expr]:
    """x's zero as a linear takes it; none for 0."""
    none = isinstance(zero, GenericConst) and not constant(zero).any()
    return [] if none else [zero_of(writer, zero)]
