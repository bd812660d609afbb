"""quantize(norm(x))  ->  norm(x) that stores int8: who computes a tensor also rounds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, GlobalVar, IRModule

from pocketformer.passes.composite import Composites
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.fused_operators import body_of
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    constant,
    emit,
    same_sizes,
    shape,
    sizes_of,
)
from pocketformer.passes.refusal import note_refusal
from pocketformer.passes.short_forms import Form, Forms, channels_of


class StoreShort:
    """What products read in few bits is stored so by the kernel that computes it.

    A norm can also keep its result in float32 for others. Where rows have ranges of their own and
    no norm computes them, the linear layer that reads them quantises them itself. What nobody can
    store in few bits stays as it is: `quantize` becomes a loop of its own, and kernels round
    float32 to bfloat16.
    """

    def __call__(self, mod: IRModule) -> IRModule:
        composites = Composites(mod)
        entries: dict[GlobalVar, relax.Function] = {
            gvar: _Function(mod, func, composites).rewritten()
            for gvar, func in entry_functions(mod)
        }
        return composites.module(entries)


@dataclass(frozen=True)
class Stored:
    """What is stored of a tensor: in few bits, and for rows their scales and zeros."""

    form: Form
    parts: list[relax.Var]


class _Function:
    """A function on its way."""

    def __init__(self, mod: IRModule, func: relax.Function, composites: Composites) -> None:
        self._graph, self._composites = Graph(func), composites
        self._forms = Forms(mod, self._graph)
        self._stored: dict[relax.Var, Stored] = {}
        self._again: dict[relax.Var, relax.Var] = {}    # what `_early` has computed again

    def rewritten(self) -> relax.Function:
        """The function whose kernels store and read few bits."""
        replacements = {}
        for var, value in self._graph:
            before: list[relax.VarBinding] = []
            new = self._value(var, value, before)
            if new is not None:
                replacements[var] = Replacement(new, before)
        return self._graph.replaced(replacements)

    def _value(
        self, var: relax.Var, value: relax.Expr, before: list[relax.VarBinding]
    ) -> relax.Expr | None:
        """The new value of `var`, None where it stays."""
        if isinstance(value, relax.TupleGetItem):
            return self._of_rows(value, before, str(var.name))
        if var not in self._forms.kinds:
            return None
        kind, options = self._forms.kinds[var]
        if kind == "quantize":
            x = value.args[0]
            wish = self._forms.wish(var, x)
            short = self._short(x, wish, before, var.name)
            if short is None and wish is not None:
                note_refusal("store_short", value, self._forms.refusal(self._graph.root(x), wish))
            return short
        args, options = list(value.args), dict(options)
        read = self._read(var, kind, args, options, before)
        if var in self._forms.chosen:
            return self._store(var, kind, args, options, before)
        return self._call(kind, args, options, value) if read else None

    def _read(
        self, var: relax.Var, kind: str, args: list[relax.Expr], options: dict[str, Any],
        before: list[relax.VarBinding],
    ) -> bool:
        """Let a product read what is stored in few bits; whether there is such."""
        if self._forms.wants_bfloat16(var):
            short = [self._short(part, Form("bfloat16"), before, var.name)
                     for part in self._forms.parts(var)]
            if any(part is None for part in short):
                return False
            args[: len(short)] = short
            return True
        rows = self._left_to_kernel(kind, args)
        if rows is None:
            return False
        x, *factor = rows.args
        if factor:
            x = emit(before, relax.op.multiply(x, factor[0]), f"{var.name}_scaled")
        args[0] = x
        del args[3:5]
        options.update(x_dtype="float32", scaled=False, zero=False, rows=False)
        return True

    def _left_to_kernel(self, kind: str, args: list[relax.Expr]) -> relax.Call | None:
        """The quantize_rows of what a linear reads, if no norm does it."""
        item = self._graph.value(args[0])
        if kind != "quantized_linear" or not isinstance(item, relax.TupleGetItem):
            return None
        rows = item.tuple_value
        if self._forms.kinds.get(rows, ("",))[0] != "quantize_rows" or self._is_stored(rows):
            return None
        call: relax.Call = self._graph.value(rows)
        return call

    def _is_stored(self, rows: relax.Var) -> bool:
        x = self._graph.producer[rows].args[0]
        root = self._graph.root(x)
        stored = self._stored.get(root)
        same_rows = same_sizes(shape(x)[-1:], shape(root)[-1:])
        return same_rows and stored is not None and stored.form.same(self._forms.wish(rows, x))

    def _of_rows(
        self, item: relax.TupleGetItem, before: list[relax.VarBinding], name: str
    ) -> relax.Expr | None:
        """A part of rows that a norm has quantised."""
        rows = item.tuple_value
        if self._forms.kinds.get(rows, ("",))[0] != "quantize_rows" or not self._is_stored(rows):
            return None
        root = self._graph.root(self._graph.producer[rows].args[0])
        part = self._stored[root].parts[int(item.index)]
        sizes = sizes_of(rows.ty.fields[int(item.index)])
        return part if same_sizes(shape(part), sizes) else emit(
            before, relax.op.reshape(part, sizes), f"{name}_view")

    def _short(
        self, x: relax.Expr, form: Form | None, before: list[relax.VarBinding], name: str
    ) -> relax.Expr | None:
        """`x` as it is stored in this form, None if it is not."""
        stored = self._stored.get(self._graph.root(x))
        if stored is None or not stored.form.same(form):
            return None
        short = stored.parts[0]
        if same_sizes(shape(short), shape(x)):
            return short
        return emit(before, relax.op.reshape(short, shape(x)), f"{name}_view")

    def _store(
        self, var: relax.Var, kind: str, args: list[relax.Expr], options: dict[str, Any],
        before: list[relax.VarBinding],
    ) -> relax.Expr:
        """The call of `var` stores in few bits; its new value, of no use where it is not kept."""
        form, keep = self._forms.chosen[var]
        if form.factor is not None:
            channels = channels_of(var, kind)
            factor = self._early(form.factor, before)
            args.append(_widened(factor, channels, before, f"{var.name}_factor"))
        if form.zero is not None:
            args.append(self._early(form.zero, before))
        if kind == "norm":
            options.update(store=form.store, keep=keep)
        else:
            options["out_dtype"] = form.store
        value = self._graph.producer[var]
        short = emit(before, self._call(kind, args, options, value), f"{var.name}_{form.store}")
        if isinstance(short.ty, relax.TensorType):
            self._stored[var] = Stored(form, [short])
            return value
        items = [
            emit(before, relax.TupleGetItem(short, at), f"{short.name}_{at}")
            for at in range(len(short.ty.fields))
        ]
        self._stored[var] = Stored(form, items[keep:])
        return items[0] if keep else value

    def _call(
        self, kind: str, args: list[relax.Expr], options: dict[str, Any], old: relax.Call
    ) -> relax.Call:
        return self._composites.call(
            kind, args, lambda *a: body_of(kind, options, *a), options, old.span)

    def _early(self, expr: relax.Expr, before: list[relax.VarBinding]) -> relax.Expr:
        """What depends on weights only, computed again where it may not be known yet."""
        if (again := self._again.get(expr)) is not None:
            return again
        value = self._graph.producer.get(expr, expr)
        match value:
            case relax.Call():
                args = [self._early(arg, before) for arg in value.args]
                value = relax.Call(value.op, args, value.attrs, value.ty_args, value.span)
            case relax.Tuple():
                value = relax.Tuple([self._early(part, before) for part in value.fields])
            case relax.TupleGetItem():
                value = relax.TupleGetItem(self._early(value.tuple_value, before), value.index)
            case relax.Var():
                return expr if value.same_as(expr) else self._early(value, before)
        if expr not in self._graph.producer:
            return value
        self._again[expr] = emit(before, value, f"{expr.name}_early")
        return self._again[expr]


def _widened(
    factor: relax.Expr, channels: int, before: list[relax.VarBinding], name: str
) -> relax.Expr:
    """The factor of every channel."""
    count = int(shape(factor)[0])
    if count == channels:
        return factor
    if isinstance(factor, GenericConst):
        return relax.const(np.tile(constant(factor), channels // count), "float32")
    return emit(before, relax.op.tile(factor, (channels // count,)), name)
