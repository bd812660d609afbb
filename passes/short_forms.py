"""In what form each kernel stores what it computes: as all that read it want it in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.graph import Graph, dtype, same_sizes, same_value, shape
from pocketformer.passes.refusal import Refused

# In what form the kernels of these fused operators can store what they compute.
STORES = {
    "norm": ("int8", "rows", "bfloat16"),
    "linear": ("int8", "bfloat16"),
    "quantized_linear": ("int8", "uint8", "bfloat16"),
    "quantized_matmul": ("int8", "uint8"),
    "attention": ("int8", "bfloat16"),
}


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


class Forms:
    """The forms in which the fused operators of a function store, found once.

    `kinds` are the names and options of its fused operators, by the variables that they are bound
    to; `chosen` tells for those that store in few bits how, and whether they keep float32 as well.
    """

    def __init__(self, mod: IRModule, graph: Graph) -> None:
        self._graph = graph
        self.kinds: dict[relax.Var, tuple[str, dict[str, Any]]] = {
            var: (found[0], options_of(found[1]))
            for var, value in graph if (found := composite_of(mod, value))
        }
        self.chosen = self._choices()

    def _choices(self) -> dict[relax.Var, tuple[Form, bool]]:
        refused: set[relax.Var] = set()    # attention that does not get all that it reads
        while True:
            chosen = {
                var: choice for var, (kind, _) in self.kinds.items()
                if (choice := self._choice(var, kind, refused))
            }
            lacking = {
                var for var, (kind, options) in self.kinds.items()
                if kind == "attention" and var not in refused and self.wants_bfloat16(var)
                and not all(
                    self._graph.root(part) in chosen
                    and chosen[self._graph.root(part)][0].store == "bfloat16"
                    for part in self.parts(var))
            }
            if not lacking:
                return chosen
            refused |= lacking

    def _choice(
        self, var: relax.Var, kind: str, refused: set[relax.Var]
    ) -> tuple[Form, bool] | None:
        options = self.kinds[var][1]
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
        # Kernels round float32 to bfloat16 as fast as a norm would store it a second time.
        twice = kind == "norm" and most.store != "bfloat16"
        return (most, keep) if twice or not keep else None

    def refusal(self, var: relax.Expr, form: Form) -> Refused:
        """Why `var`, which is wanted in this form, is not stored in it."""
        kind = self.kinds[var][0] if var in self.kinds else ""
        if kind not in STORES:
            return Refused("no norm, product or attention computes what it reads")
        if form.store not in STORES[kind]:
            return Refused(f"no kernel of {kind} stores {form.store}")
        if not self._fits(var, kind, form):
            return Refused(f"the {kind} that it reads cannot store by this factor")
        if var in self.chosen:
            return Refused(f"the {kind} that it reads is stored in another form, for others")
        return Refused(f"others read the {kind} in float32 or by another factor")

    def _wishes(self, var: relax.Var, refused: set[relax.Var]) -> Iterator[Form | None]:
        """In what form each reader of `var` wants it, None for float32."""
        if var in self._graph.outputs:
            yield None
        for user in self._graph.users.get(var, []):
            if not self._graph.is_call(user, "relax.reshape"):
                yield None if user in refused else self.wish(user, var)
                continue
            same_rows = same_sizes(shape(user)[-1:], shape(var)[-1:])
            for form in self._wishes(user, refused):
                yield form if same_rows or form is None or form.store != "rows" else None

    def wish(self, user: relax.Var, x: relax.Var) -> Form | None:
        """In what form `user` wants x, None for float32."""
        if user not in self.kinds:
            return None
        kind = self.kinds[user][0]
        args = self._graph.producer[user].args
        read = self.parts(user) if self.wants_bfloat16(user) else args[:1]
        if any(x.same_as(arg) for arg in args[len(read):]):
            return None
        if self.wants_bfloat16(user):
            return Form("bfloat16")
        if kind == "quantize":
            return Form(self.kinds[user][1]["dtype"], args[1], args[2])
        return Form("rows", *args[1:]) if kind == "quantize_rows" else None

    def wants_bfloat16(self, var: relax.Var) -> bool:
        """Whether `var` is a product whose kernel would round what it reads to bfloat16."""
        kind, options = self.kinds[var]
        return (
            kind in ("linear", "attention")
            and options.get("dtype") == "bfloat16"
            and dtype(self._graph.producer[var].args[0]) == "float32"
        )

    def parts(self, var: relax.Var) -> list[relax.Expr]:
        """The arguments of a product that are multiplied, but for weights."""
        kind, options = self.kinds[var]
        count = 3 if kind == "attention" and not options.get("packed") else 1
        return list(self._graph.producer[var].args[:count])

    def _fits(self, var: relax.Var, kind: str, form: Form) -> bool:
        """Whether a kernel's store can take this factor, which has to be known by then."""
        if any(each is not None and not self._graph.is_weight(each)
               for each in (form.factor, form.zero)):
            return False
        return form.factor is None or channels_of(var, kind) % int(shape(form.factor)[0]) == 0


def channels_of(var: relax.Var, kind: str) -> int:
    """How many factors a store takes."""
    if kind == "quantized_matmul":
        return 1
    sizes = shape(var)
    return int(np.prod(sizes[-2:])) if kind == "attention" else int(sizes[-1])


def _same(left: relax.Expr | None, right: relax.Expr | None) -> bool:
    if left is None or right is None:
        return left is right
    return same_value(left, right)
