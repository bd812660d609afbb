"""quantize(norm(x))  ->  norm(x) that stores int8: who computes a tensor also rounds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, GlobalVar, IRModule

from pocketformer.passes.cast_products import body_of
from pocketformer.passes.composite import Composites, composite_of, options_of
from pocketformer.passes.fused_operators import norm, quantized_linear
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    constant,
    dtype,
    emit,
    entry_functions,
    same_sizes,
    shape,
    sizes_of,
)

# In what form the kernels of these fused operators can store what they compute.
STORES = {
    "norm": ("int8", "rows", "bfloat16"),
    "linear": ("int8", "bfloat16"),
    "quantized_linear": ("int8", "uint8", "bfloat16"),
    "attention": ("int8", "bfloat16"),
}


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


@dataclass(frozen=True, eq=False)
class Form:
    """In how few bits a tensor is wanted: int8 or uint8 by factor and zero, rows, bfloat16."""

    store: str
    factor: relax.Expr | None = None
    zero: relax.Expr | None = None

    def same(self, other: Form | None) -> bool:
        """Whether both are the same numbers."""
        return (
            other is not None
            and self.store == other.store
            and _same(self.factor, other.factor)
            and _same(self.zero, other.zero)
        )


@dataclass(frozen=True)
class Stored:
    """What is stored of a tensor: in few bits, and for rows their scales and zeros."""

    form: Form
    parts: list[relax.Var]


class _Function:
    """A function on its way."""

    def __init__(self, mod: IRModule, func: relax.Function, composites: Composites) -> None:
        self._mod, self._graph, self._composites = mod, Graph(func), composites
        self._kinds = {
            var: (found[0], options_of(found[1]))
            for var, value in self._graph if (found := composite_of(mod, value))
        }
        self._chosen = self._choices()
        self._stored: dict[relax.Var, Stored] = {}

    def rewritten(self) -> relax.Function:
        replacements = {}
        for var, value in self._graph:
            before: list[relax.VarBinding] = []
            new = self._value(var, value, before)
            if new is not None:
                replacements[var] = Replacement(new, before)
        return self._graph.replaced(replacements)

    # What is stored how

    def _choices(self) -> dict[relax.Var, tuple[Form, bool]]:
        """For each variable to store in few bits: how, and whether to keep it as float32 too."""
        refused: set[relax.Var] = set()    # attention that does not get all that it reads
        while True:
            chosen = {
                var: choice for var, (kind, _) in self._kinds.items()
                if (choice := self._choice(var, kind, refused))
            }
            lacking = {
                var for var, (kind, options) in self._kinds.items()
                if kind == "attention" and var not in refused and self._wants_bfloat16(var)
                and not all(
                    self._root(part) in chosen
                    and chosen[self._root(part)][0].store == "bfloat16"
                    for part in self._parts(var))
            }
            if not lacking:
                return chosen
            refused |= lacking

    def _choice(
        self, var: relax.Var, kind: str, refused: set[relax.Var]
    ) -> tuple[Form, bool] | None:
        options = self._kinds[var][1]
        if kind not in STORES or options.get("store") or "out_dtype" in options:
            return None
        wishes = [*self._wishes(var, refused)]
        fitting = [
            form for form in wishes if form and form.store in STORES[kind]
            and self._fits(var, kind, form)
        ]
        if not fitting:
            return None
        most = max(fitting, key=lambda form: sum(form.same(other) for other in fitting))
        keep = not all(most.same(form) for form in wishes)
        return (most, keep) if kind == "norm" or not keep else None

    def _wishes(self, var: relax.Var, refused: set[relax.Var]) -> Iterator[Form | None]:
        """In what form each reader of `var` wants it, None for float32."""
        if var in self._graph.outputs:
            yield None
        for user in self._graph.users.get(var, []):
            if self._graph.is_call(user, "relax.reshape"):
                yield from self._wishes(user, refused)
            else:
                yield None if user in refused else self._wish(user, var)

    def _wish(self, user: relax.Var, x: relax.Var) -> Form | None:
        if user not in self._kinds:
            return None
        kind = self._kinds[user][0]
        args = self._graph.producer[user].args
        read = self._parts(user) if self._wants_bfloat16(user) else args[:1]
        if any(x.same_as(arg) for arg in args[len(read):]):
            return None
        if self._wants_bfloat16(user):
            return Form("bfloat16")
        if kind == "quantize":
            return Form(self._kinds[user][1]["dtype"], args[1], args[2])
        return Form("rows", *args[1:]) if kind == "quantize_rows" else None

    def _wants_bfloat16(self, var: relax.Var) -> bool:
        kind, options = self._kinds[var]
        return (
            kind in ("linear", "attention")
            and options.get("dtype") == "bfloat16"
            and dtype(self._graph.producer[var].args[0]) == "float32"
        )

    def _parts(self, var: relax.Var) -> list[relax.Expr]:
        """The arguments of a product that are multiplied, but for weights."""
        kind, options = self._kinds[var]
        count = 3 if kind == "attention" and not options.get("packed") else 1
        return list(self._graph.producer[var].args[:count])

    def _fits(self, var: relax.Var, kind: str, form: Form) -> bool:
        """Whether a kernel's store can take this factor, which has to be known by then."""
        if any(each is not None and not self._graph.is_weight(each)
               for each in (form.factor, form.zero)):
            return False
        return form.factor is None or _channels(var, kind) % int(shape(form.factor)[0]) == 0

    # What becomes of a binding

    def _value(
        self, var: relax.Var, value: relax.Expr, before: list[relax.VarBinding]
    ) -> relax.Expr | None:
        """The new value of `var`, None where it stays."""
        if isinstance(value, relax.TupleGetItem):
            return self._of_rows(value, before, str(var.name))
        if var not in self._kinds:
            return None
        kind, options = self._kinds[var]
        if kind == "quantize":
            return self._short(value.args[0], self._wish(var, value.args[0]), before, var.name)
        args, options = list(value.args), dict(options)
        read = self._read(var, kind, args, options, before)
        if var in self._chosen:
            return self._store(var, kind, args, options, before)
        return self._call(kind, args, options, value) if read else None

    def _read(
        self, var: relax.Var, kind: str, args: list[relax.Expr], options: dict[str, Any],
        before: list[relax.VarBinding],
    ) -> bool:
        """Let a product read what is stored in few bits; whether there is such."""
        if self._wants_bfloat16(var):
            short = [self._short(part, Form("bfloat16"), before, var.name)
                     for part in self._parts(var)]
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
        if self._kinds.get(rows, ("",))[0] != "quantize_rows" or self._is_stored(rows):
            return None
        call: relax.Call = self._graph.value(rows)
        return call

    def _is_stored(self, rows: relax.Var) -> bool:
        x = self._graph.producer[rows].args[0]
        stored = self._stored.get(self._root(x))
        return stored is not None and stored.form.same(self._wish(rows, x))

    def _of_rows(
        self, item: relax.TupleGetItem, before: list[relax.VarBinding], name: str
    ) -> relax.Expr | None:
        """A part of rows that a norm has quantised."""
        rows = item.tuple_value
        if self._kinds.get(rows, ("",))[0] != "quantize_rows" or not self._is_stored(rows):
            return None
        root = self._root(self._graph.producer[rows].args[0])
        part = self._stored[root].parts[int(item.index)]
        sizes = sizes_of(rows.ty.fields[int(item.index)])
        return part if same_sizes(shape(part), sizes) else emit(
            before, relax.op.reshape(part, sizes), f"{name}_view")

    def _short(
        self, x: relax.Expr, form: Form | None, before: list[relax.VarBinding], name: str
    ) -> relax.Expr | None:
        """`x` as it is stored in this form, None if it is not."""
        stored = self._stored.get(self._root(x))
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
        form, keep = self._chosen[var]
        if form.factor is not None:
            channels = _channels(var, kind)
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
        body = {"norm": norm, "quantized_linear": quantized_linear}.get(kind)

        def meaning(*params: relax.Expr) -> relax.Expr:
            return body(*params, **options) if body else body_of(kind, options, *params)

        return self._composites.call(kind, args, meaning, options, old.span)

    def _root(self, expr: relax.Expr) -> relax.Expr:
        """What `expr` is another shape of."""
        while self._graph.is_call(expr, "relax.reshape"):
            expr = self._graph.value(expr).args[0]
        return expr

    def _early(self, expr: relax.Expr, before: list[relax.VarBinding]) -> relax.Expr:
        """What depends on weights only, computed again where it may not be known yet."""
        value = self._graph.producer.get(expr)
        if value is None:
            return expr
        if isinstance(value, relax.Call):
            args = [self._early(arg, before) for arg in value.args]
            value = relax.Call(value.op, args, value.attrs, value.ty_args, value.span)
        return emit(before, value, f"{expr.name}_early")


def _channels(var: relax.Var, kind: str) -> int:
    """How many factors a store takes."""
    sizes = shape(var)
    return int(np.prod(sizes[-2:])) if kind == "attention" else int(sizes[-1])


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


def _same(left: relax.Expr | None, right: relax.Expr | None) -> bool:
    if left is None or right is None:
        return left is right
    if isinstance(left, GenericConst) and isinstance(right, GenericConst):
        return np.array_equal(constant(left), constant(right))
    return bool(left.same_as(right))
