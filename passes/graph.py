"""A Relax function as a graph: who produces a variable, who uses it, how to replace a binding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from tvm import relax, tirx
from tvm.ir import Expr, GenericConst, SequentialSpan, SourceName, Span
from tvm.ir import Op as RelaxOp

Size: TypeAlias = int | Expr    # a known size, or an expression in symbolic dimensions


def sources(expr: relax.Expr) -> tuple[str, ...]:
    """The names of the source operators that `expr` stands for."""
    span = expr.span
    if span is None:
        return ()
    if isinstance(span, SequentialSpan):
        return tuple(dict.fromkeys(inner.source_name.name for inner in span.spans))
    return (span.source_name.name,)


def join_spans(exprs: Iterable[relax.Expr]) -> Span | None:
    """One span that names the source operators of all `exprs`."""
    names = dict.fromkeys(name for expr in exprs for name in sources(expr))
    spans = [Span(SourceName(name), 0, 0, 0, 0) for name in names]
    return SequentialSpan(spans) if len(spans) > 1 else (spans[0] if spans else None)


def op_name(expr: relax.Expr | None) -> str:
    """`relax.matmul` for a call of that operator, else an empty string."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, RelaxOp):
        return str(expr.op.name)
    return ""


def shape(expr: relax.Expr) -> list[Size]:
    """The sizes of `expr`; known ones as int."""
    return sizes_of(expr.ty)


def sizes_of(kind: relax.TensorType) -> list[Size]:
    """The sizes of a tensor of this type; known ones as int."""
    return [int(size) if isinstance(size, tirx.IntImm) else size for size in kind.shape]


def dtype(expr: relax.Expr) -> str:
    """The element type of a tensor by its numpy name."""
    return str(expr.ty.dtype.dtype)


def is_one(size: Size) -> bool:
    """Whether a size is known to be 1; comparing an expression with 1 would give an expression."""
    return isinstance(size, int) and size == 1


def same_sizes(left: list[Size], right: list[Size]) -> bool:
    """Whether two shapes are the same, axis by axis and as they are written."""
    return list(map(str, left)) == list(map(str, right))


def scalar(expr: relax.Expr) -> float | None:
    """The value of a constant with one element, else None."""
    if not isinstance(expr, GenericConst):
        return None
    value = constant(expr)
    return float(value.reshape(-1)[0]) if value.size == 1 else None


def constant(expr: GenericConst) -> np.ndarray:
    return np.asarray(expr.value.numpy())


def same_value(left: relax.Expr, right: relax.Expr) -> bool:
    """Whether both are the same expression, or constants of the same numbers."""
    if isinstance(left, GenericConst) and isinstance(right, GenericConst):
        return dtype(left) == dtype(right) and np.array_equal(constant(left), constant(right))
    return bool(left.same_as(right))


@dataclass
class Replacement:
    """What stands in place of a binding: bindings to put before it, and its new value."""

    value: relax.Expr
    before: list[relax.VarBinding] = field(default_factory=list)


class Graph:
    """The bindings of one Relax function, in order; a function has one block here."""

    def __init__(self, func: relax.Function) -> None:
        self.func = func
        self.bindings = [binding for block in func.body.blocks for binding in block.bindings]
        self.producer = {binding.var: binding.value for binding in self.bindings}
        self.users: dict[relax.Var, list[relax.Var]] = {}
        for binding in self.bindings:
            for used in _used(binding.value):
                self.users.setdefault(used, []).append(binding.var)
        self.outputs = set(_used(func.body.body))
        self._weights = set(func.params[int(func.attrs["num_input"]) :])
        for var, value in self.producer.items():
            if self._weights.issuperset(_used(value)) and _is_static(var):
                self._weights.add(var)

    def used(self, expr: relax.Expr) -> list[relax.Var]:
        """The variables that occur in `expr`."""
        return _used(expr)

    def value(self, expr: relax.Expr) -> relax.Expr:
        """What `expr` is bound to, or itself for a parameter or constant."""
        while isinstance(expr, relax.Var) and expr in self.producer:
            expr = self.producer[expr]
            if not isinstance(expr, relax.Var):
                break
        return expr

    def root(self, expr: relax.Expr) -> relax.Expr:
        """What `expr` is another shape of: the same numbers in the same order."""
        while self.is_call(expr, "relax.reshape"):
            expr = self.value(expr).args[0]
        return expr

    def is_weight(self, expr: relax.Expr) -> bool:
        """Whether `expr` depends on weights and constants only, so that it can be computed now."""
        return isinstance(expr, GenericConst) or expr in self._weights

    def is_call(self, expr: relax.Expr, *names: str) -> bool:
        return op_name(self.value(expr)) in names

    def only_user(self, var: relax.Var) -> relax.Var | None:
        """The one variable computed from `var`; None if there are more or it is an output."""
        users = self.users.get(var, [])
        return users[0] if len(users) == 1 and var not in self.outputs else None

    def __iter__(self) -> Iterator[tuple[relax.Var, relax.Expr]]:
        return iter([(binding.var, binding.value) for binding in self.bindings])

    def replaced(self, replacements: Mapping[relax.Var, Replacement]) -> relax.Function:
        """The function with the given bindings replaced; what nobody uses any more is left out."""
        bindings: list[relax.VarBinding] = []
        for binding in self.bindings:
            if new := replacements.get(binding.var):
                bindings += [*new.before, relax.VarBinding(binding.var, new.value)]
            else:
                bindings.append(binding)
        return rebuild(self.func, _live(bindings, self.outputs))


def rebuild(
    func: relax.Function,
    bindings: list[relax.VarBinding],
    params: list[relax.Var] | None = None,
) -> relax.Function:
    """`func` with other bindings, and if given, other parameters."""
    seq = relax.SeqExpr([relax.DataflowBlock(bindings)], func.body.body)
    body = relax.BlockBuilder().normalize(seq)
    params = list(func.params) if params is None else params
    return relax.Function(params, body, func.ret_ty, func.is_pure, func.attrs)


def emit(
    bindings: list[relax.VarBinding], value: relax.Expr, name: str, span: Span | None = None
) -> relax.Var:
    """Append a binding of `value` under `name`, its inner calls first; returns its variable."""
    if isinstance(value, relax.Call):
        args = [
            emit(bindings, arg, name, span or value.span) if isinstance(arg, relax.Call) else arg
            for arg in value.args
        ]
        value = relax.Call(value.op, args, value.attrs, value.ty_args, value.span)
    normal = normalize(value, span)
    var = relax.DataflowVar(name, normal.ty)
    bindings.append(relax.VarBinding(var, normal))
    return var


def normalize(value: relax.Expr, span: Span | None = None) -> relax.Expr:
    """`value` with its type inferred, and with `span` if given."""
    normal = relax.BlockBuilder().normalize(value)
    if span is not None and isinstance(normal, relax.Call):
        normal = relax.BlockBuilder().normalize(with_span(normal, span))
    return normal


def with_span(call: relax.Call, span: Span | None) -> relax.Call:
    """`call` as one that stands for the source at `span`."""
    return relax.Call(call.op, call.args, call.attrs, call.ty_args, span)


def _used(expr: relax.Expr) -> list[relax.Var]:
    """The variables in `expr`, each once; symbolic sizes are none."""
    found: dict[relax.Var, None] = {}
    pending = [expr]
    while pending:
        match pending.pop():
            case relax.Call(args=args):
                pending += reversed(args)
            case relax.Tuple(fields=fields):
                pending += reversed(fields)
            case relax.TupleGetItem(tuple_value=whole):
                pending.append(whole)
            case relax.Var() as var:
                found[var] = None
    return list(found)


def _is_static(expr: relax.Expr) -> bool:
    fields = expr.ty.fields if isinstance(expr.ty, relax.TupleType) else [expr.ty]
    return all(
        isinstance(field, relax.TensorType)
        and field.shape is not None
        and all(isinstance(size, tirx.IntImm) for size in field.shape)
        for field in fields
    )


def _live(
    bindings: list[relax.VarBinding], outputs: Iterable[relax.Var]
) -> list[relax.VarBinding]:
    wanted = set(outputs)
    kept: list[relax.VarBinding] = []
    for binding in reversed(bindings):
        if binding.var in wanted:
            wanted.update(_used(binding.value))
            kept.append(binding)
    return kept[::-1]
