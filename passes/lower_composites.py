"""quantize(x, factor, zero)  ->  round(x * factor), + zero, ...: a composite without a kernel."""

from __future__ import annotations

from collections.abc import Mapping

import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GenericConst, IRModule

from pocketformer.passes.composite import composite_of
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Graph, Replacement, emit


class LowerComposites:
    """Every composite that is still called becomes the plain operators of its body.

    They stand for the same operators of the source, and have names of their own.
    """

    def __call__(self, mod: IRModule) -> IRModule:
        functions = {
            gvar: func for gvar, func in mod.functions.items()
            if not (isinstance(func, relax.Function) and "Composite" in (func.attrs or {}))
        }
        for gvar, func in entry_functions(mod):
            graph = Graph(func)
            functions[gvar] = graph.replaced({
                var: _body(var, value, found[1])
                for var, value in graph if (found := composite_of(mod, value))
            })
        return IRModule(functions, attrs=mod.attrs)


def _body(var: relax.Var, call: relax.Call, composite: relax.Function) -> Replacement:
    sizes: dict[tirx.Var, relax.Expr] = {}
    for param, arg in zip(composite.params, call.args, strict=True):
        for own, given in zip(param.ty.shape, arg.ty.shape, strict=True):
            if isinstance(own, tirx.Var):
                sizes[own] = given
    body = composite.body
    known: dict[relax.Var, relax.Expr] = dict(zip(composite.params, call.args, strict=True))
    before: list[relax.VarBinding] = []
    for binding in (each for block in body.blocks for each in block.bindings):
        name = f"{var.name}_{binding.var.name}"
        known[binding.var] = emit(before, _with(binding.value, known, sizes), name, call.span)
    return Replacement(_with(body.body, known, sizes), before)


def _with(
    expr: relax.Expr, known: Mapping[relax.Var, relax.Expr], sizes: Mapping[tirx.Var, relax.Expr]
) -> relax.Expr:
    """`expr` with values in place of variables and of the symbols of sizes."""
    match expr:
        case GenericConst():
            return expr
        case relax.Tuple(fields=fields):
            return relax.Tuple([_with(field, known, sizes) for field in fields])
        case relax.TupleGetItem():
            return relax.TupleGetItem(_with(expr.tuple_value, known, sizes), int(expr.index))
        case relax.Call():
            args = [_with(arg, known, sizes) for arg in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    if expr in known:
        return known[expr]
    return tvm_ffi.structural_map(expr, (tirx.Var, lambda symbol: sizes.get(symbol, symbol)))
