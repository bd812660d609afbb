"""x * 1, x + 0, a cast to its own dtype, permute(permute(x)), ...  ->  x, or one for two."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from tvm import relax, tirx
from tvm.ir import GenericConst, IRModule

from pocketformer.passes.fold_layout import permuted_groups
from pocketformer.passes.fold_lookup import own_places, turned_rows
from pocketformer.passes.graph import Graph, constant, op_name
from pocketformer.passes.pattern import Found
from pocketformer.passes.rewrite import Match, Rewrite, same_type

Rule = Callable[[Graph, relax.Var, relax.Call], relax.Expr | None]

RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
# A cast to the second and back gives the same value: every value of the first is one of the second.
HOLDS = {
    ("bool", "int32"), ("bool", "int64"), ("bool", "float32"), ("int32", "int64"),
    ("float16", "float32"), ("bfloat16", "float32"), ("float32", "float64"),
}


class FoldArithmetic(Rewrite):
    """What computes nothing is left out; two changes of layout become one."""

    def __call__(self, mod: IRModule) -> IRModule:
        while (folded := super().__call__(mod)) is not mod:
            mod = folded
        return mod

    def matches(self, graph: Graph, var: relax.Var) -> Iterator[Match]:
        """The operator, if the rule for its kind knows something simpler."""
        call = graph.producer[var]
        rule = RULES.get(op_name(call))
        new = rule(graph, var, call) if rule else None
        if new is None or not (isinstance(new, relax.Call) or same_type(new.ty, var.ty)):
            return
        skips_one = not any(new.same_as(arg) for arg in call.args)
        calls = (call.args[0], var) if skips_one else (var,)
        yield Match(graph, var, Found({"simpler": new}, calls=calls))

    def rewrite(self, match: Match) -> relax.Expr:
        return match.value("simpler")


def _neutral(number: float, *, either_side: bool = False) -> Rule:
    """x op number is x."""

    def rule(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        left, right = call.args
        if _all_equal(right, number):
            return left
        return right if either_side and _all_equal(left, number) else None

    return rule


def _same(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    """Of these operators a result of the argument's own type is the argument."""
    return call.args[0]


def _cast(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    inner = graph.value(call.args[0])
    if op_name(inner) == "relax.astype":
        between, before = str(inner.ty.dtype), str(inner.args[0].ty.dtype)
        if before == str(var.ty.dtype) and (before, between) in HOLDS:
            return inner.args[0]
    return call.args[0]


def _reshape(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    inner = graph.value(call.args[0])
    if var.ty.shape is None or same_type(call.args[0].ty, var.ty):
        return call.args[0]
    if op_name(inner) not in RESHAPES:
        # The virtual machine knows one operator that gives another shape to the same memory.
        known = op_name(call) == "relax.reshape"
        return None if known else relax.op.reshape(call.args[0], var.ty.shape)
    if same_type(inner.args[0].ty, var.ty):
        return inner.args[0]
    return relax.op.reshape(inner.args[0], var.ty.shape)


def _permute(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    inner = graph.value(call.args[0])
    axes = _axes(call)
    if axes == sorted(axes):
        return call.args[0]
    if op_name(inner) != "relax.permute_dims":
        turned = turned_rows(graph, call)
        return permuted_groups(graph, call, axes) if turned is None else turned
    first = _axes(inner)
    axes = [first[axis] for axis in axes]
    return inner.args[0] if axes == sorted(axes) else relax.op.permute_dims(inner.args[0], axes)


def _concat(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    parts = graph.value(call.args[0])
    alone = isinstance(parts, relax.Tuple) and len(parts.fields) == 1
    return parts.fields[0] if alone else None


def _slice(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    strides = graph.value(call.args[4]).fields if len(call.args) > 4 else []
    forward = all(isinstance(step, tirx.IntImm) and int(step) > 0 for step in strides)
    return call.args[0] if forward else None


def _where(graph: Graph, var: relax.Var, call: relax.Call) -> relax.Expr | None:
    condition, yes, no = call.args
    if _all_equal(condition, 1):
        return yes
    return no if _all_equal(condition, 0) else None


def _axes(call: relax.Call) -> list[int]:
    rank = call.ty.ndim
    axes = call.attrs.axes
    return list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes]


def _all_equal(expr: relax.Expr, number: float) -> bool:
    return isinstance(expr, GenericConst) and bool(np.all(constant(expr) == number))


RULES: dict[str, Rule] = {
    "relax.add": _neutral(0, either_side=True),
    "relax.subtract": _neutral(0),
    "relax.multiply": _neutral(1, either_side=True),
    "relax.divide": _neutral(1),
    "relax.power": _neutral(1),
    "relax.astype": _cast,
    "relax.broadcast_to": _same,
    "relax.permute_dims": _permute,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.where": _where,
    "relax.gather_nd": own_places,
    **dict.fromkeys(RESHAPES, _reshape),
}
