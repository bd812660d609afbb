"""f(x)[:, 0]  ->  f(x[:, 0]), as far up as nothing else reads other rows.

A classifier reads the first row of the last layer only: of that layer the query, the attention, the
feed-forward part and the norms are then computed for one row, keys and values for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes.entries import map_entries
from pocketformer.passes.graph import Graph, emit, op_name, rebuild, shape
from pocketformer.passes.refusal import Refused, note_refusal
from pocketformer.passes.rows import Rows, of_rows, rows_needed, rows_read
from pocketformer.passes.split_linear import as_parts, split_linears

# Leaving out less than this share of the rows pays less than one size for all kernels does.
SHARE = 0.5
# Taking rows out before anything else would only move the slice.
COSTLY = ("relax.matmul", "relax.nn.layer_norm", "relax.nn.rms_norm", "relax.nn.softmax")


@dataclass(frozen=True)
class PruneRows:
    """Rows that nothing reads are not computed."""

    def __call__(self, mod: IRModule) -> IRModule:
        pruned = map_entries(mod, _function)
        if all(func.same_as(mod[gvar]) for gvar, func in pruned.functions.items()):
            return mod
        return relax.transform.CanonicalizeBindings()(pruned)


def _function(func: relax.Function) -> relax.Function:
    needs = _needs(_with_parts(func))
    if not any(op_name(needs.graph.producer[var]) in COSTLY for var in needs.rows):
        return func
    return _Rewriter(needs).function()


def _with_parts(func: relax.Function) -> relax.Function:
    """`func` where a product that was split is several, if different rows of its parts are read."""
    graph = Graph(func)
    if not (splits := split_linears(graph)):
        return func
    needs = _needs(as_parts(graph, splits, splits))
    chosen = [
        whole for whole, split in splits.items() if not needs.rows.keys().isdisjoint(split.items)
    ]
    return as_parts(graph, splits, chosen) if chosen else func


def _needs(func: relax.Function) -> _Needs:
    needs = _Needs(Graph(func))
    needs.find()
    return needs


@dataclass
class _Needs:
    """What is needed of each variable: all of it, or some rows."""

    graph: Graph
    rows: dict[relax.Var, Rows] = field(default_factory=dict)
    whole: set[relax.Var] = field(default_factory=set)

    def find(self) -> None:
        """Walk from the outputs up: when a variable is reached, all that read it are known."""
        for var in self.graph.outputs:
            self.ask(var, None)
        for var, value in reversed(list(self.graph)):
            if var in self.rows:
                self._pass_on(var, value)
            elif var in self.whole:
                self._start(value)

    def ask(self, expr: relax.Expr, rows: Rows | None) -> None:
        """One more reader needs these rows of `expr`, or with None all of it."""
        for var in self.graph.used(expr):
            known = self.rows.get(var)
            computed = var in self.graph.producer and not self.graph.is_weight(var)
            apart = var in self.whole or (known is not None and rows and not known.same(rows))
            if rows is None or not computed or apart:
                self.rows.pop(var, None)
                self.whole.add(var)
            else:
                self.rows[var] = rows

    def _pass_on(self, var: relax.Var, value: relax.Expr) -> None:
        """Ask for what the needed rows of `var` are computed from."""
        if isinstance(value, relax.TupleGetItem):
            self.ask(value.tuple_value, self.rows[var])
            return
        try:
            needed = rows_needed(value, self.rows[var])
        except Refused as reason:
            note_refusal("prune_rows", value, reason)
            del self.rows[var]
            self.whole.add(var)
            self.ask(value, None)
            return
        for arg, rows in zip(value.args, needed, strict=True):
            self.ask(arg, rows)

    def _start(self, value: relax.Expr) -> None:
        """Ask for what `value`, which is needed whole, reads."""
        rows = rows_read(self.graph, value)
        if rows is None or (isinstance(rows.total, int) and rows.count > SHARE * rows.total):
            self.ask(value, None)
        else:
            self.ask(value.args[0], rows)


class _Rewriter:
    """Writes the function anew; `left` has, by variable, what holds the rows that are left."""

    def __init__(self, needs: _Needs) -> None:
        self._needs = needs
        self._graph = needs.graph
        self._bindings: list[relax.VarBinding] = []
        self._left: dict[relax.Var, relax.Var] = {}

    def function(self) -> relax.Function:
        for var, value in self._graph:
            if (rows := self._needs.rows.get(var)) is not None:
                new = self._of_rows(value, rows, var.name)
                self._left[var] = emit(self._bindings, new, var.name, value.span)
            elif var in self._needs.whole:
                self._bindings.append(relax.VarBinding(var, self._whole(var, value)))
        return rebuild(self._graph.func, self._bindings)

    def _of_rows(self, value: relax.Expr, rows: Rows, name: str) -> relax.Expr:
        """What computes the needed rows of `value`."""
        if isinstance(value, relax.TupleGetItem):
            if value.tuple_value in self._left:
                return relax.TupleGetItem(self._left[value.tuple_value], value.index)
            return rows.of(emit(self._bindings, value, name))
        needed = rows_needed(value, rows)
        args = [
            arg if part is None else self._operand(arg, part, name)
            for arg, part in zip(value.args, needed, strict=True)
        ]
        return of_rows(value, args, rows)

    def _operand(self, expr: relax.Expr, rows: Rows, name: str) -> relax.Expr:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._operand(part, rows, name) for part in expr.fields])
        if expr in self._left:
            return self._left[expr]
        return emit(self._bindings, rows.of(expr), f"{name}_rows")

    def _whole(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """`value`, or where it takes rows of what holds no others, these."""
        first = value.args[0] if isinstance(value, relax.Call) and value.args else None
        if first not in self._left:
            return value
        rows = self._left[first]
        return rows if len(shape(rows)) == len(shape(var)) else relax.op.reshape(rows, shape(var))
