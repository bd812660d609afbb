"""Fused operators as workloads: the sizes, and the arguments as a kernel takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.graph import (
    Graph,
    Size,
    dtype,
    emit,
    is_one,
    op_name,
    same_sizes,
    shape,
)
from pocketformer.schedules.workloads import (
    Attention,
    BatchMatmul,
    Linear,
    Norm,
    Softmax,
    Workload,
)


@dataclass(frozen=True)
class Plan:
    """A workload, its kernel's arguments (the one to pack stands at `packed`) and result shape.

    `axes` are the sizes of the workload that may be symbolic, by their names in the kernel.

    The result may take over the memory of the argument at `in_place`: each of its elements is
    written after the same element of that argument was read for the last time. A kernel that gives
    a tuple has the shapes of its results after the first in `more`.
    """

    workload: Workload
    args: list[relax.Expr]
    out: list[Size]
    axes: Mapping[str, Size] = field(default_factory=dict)
    packed: int | None = None
    in_place: int | None = None
    more: list[list[Size]] = field(default_factory=list)


def _linear(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    x, weight, *extra = call.args
    k, n = shape(weight)
    rows, x = _rows(before, x, f"{name}_x")
    args = [x, weight]
    if options["bias"]:
        args.append(_flat(before, extra.pop(0), [n], f"{name}_bias"))
    if options["residual"]:
        args.append(_flat(before, extra.pop(0), [rows, n], f"{name}_residual"))
    workload = Linear(
        m=_known(rows),
        n=n,
        k=k,
        bias=bool(options["bias"]),
        activation=options["activation"],
        residual=bool(options["residual"]),
        dtype=options.get("dtype", "float32"),
    )
    last = len(args) - 1
    in_place = last if workload.residual else None
    return Plan(workload, args, [rows, n], {"m": rows}, packed=1, in_place=in_place)


def _attention(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    packed = bool(options.get("packed"))
    masks = call.args[1 if packed else 3 :]
    if packed:
        batch, q_len, _, heads, size = shape(call.args[0])
        kv_len, kv_heads, value_size = q_len, heads, size
    else:
        batch, q_len, heads, size = shape(call.args[0])
        _, kv_len, kv_heads, _ = shape(call.args[1])
        value_size = shape(call.args[2])[-1]
    workload = Attention(
        batch=_known(batch),
        q_len=_known(q_len),
        kv_len=_known(kv_len),
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        value_size=value_size,
        scale=options["scale"],
        mask=tuple(not is_one(axis) for axis in shape(masks[0])[:3]) if masks else None,
        causal=bool(options.get("causal")),
        packed=packed,
        dtype=options.get("dtype", "float32"),
    )
    axes = {"batch": batch, "kv_len": kv_len} | ({} if packed else {"q_len": q_len})
    return Plan(workload, list(call.args), [batch, q_len, heads, value_size], axes)


def _norm(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    x, *extra = call.args
    size = shape(x)[-1]
    rows, x = _rows(before, x, f"{name}_x")
    if options["residual"]:
        extra[-1] = _flat(before, extra[-1], [rows, size], f"{name}_residual")
    workload = Norm(
        rows=_known(rows),
        size=size,
        kind=options["kind"],
        eps=options["eps"],
        residual=bool(options["residual"]),
        keep_sum=False,
        bias=options["kind"] == "layer",
    )
    args = [x, *extra[-1:], *extra[:-1]] if options["residual"] else [x, *extra]
    return Plan(workload, args, [rows, size], {"rows": rows})


def _softmax(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan | None:
    if int(call.attrs.axis) not in (-1, len(shape(call)) - 1) or dtype(call) != "float32":
        return None
    rows, x = _rows(before, call.args[0], f"{name}_x")
    size = shape(call)[-1]
    workload = Softmax(rows=_known(rows), size=_known(size))
    return Plan(workload, [x], [rows, size], {"rows": rows, "size": size})


def _batch_matmul(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan | None:
    left, right = call.args
    if dtype(call) != "float32" or len(shape(left)) < 3 or len(shape(left)) != len(shape(right)):
        return None
    if not same_sizes(shape(left)[:-2], shape(right)[:-2]):
        return None
    batch = _product(shape(left)[:-2])
    m, k = shape(left)[-2:]
    n = shape(right)[-1]
    args = [
        _flat(before, left, [batch, m, k], f"{name}_left"),
        _flat(before, right, [batch, k, n], f"{name}_right"),
    ]
    workload = BatchMatmul(
        batch=_known(batch), m=_known(m), n=_known(n), k=_known(k), transpose_b=False
    )
    return Plan(workload, args, [batch, m, n], {"batch": batch, "m": m, "n": n, "k": k})


PLANS: dict[str, Callable[..., Plan]] = {
    "linear": _linear,
    "attention": _attention,
    "norm": _norm,
}
OPERATOR_PLANS: dict[str, Callable[..., Plan | None]] = {
    "relax.nn.softmax": _softmax,
    "relax.matmul": _batch_matmul,
}


@dataclass(frozen=True)
class Planned:
    """The binding of `var`, what a kernel is to compute for it, and what is to be bound before."""

    var: relax.Var
    value: relax.Call
    plan: Plan
    before: list[relax.VarBinding]


def plans(mod: IRModule, graph: Graph) -> Iterator[Planned]:
    """The fused operators of a function of `mod` that some template may compute, in order."""
    for var, value in graph:
        before: list[relax.VarBinding] = []
        if found := composite_of(mod, value):
            name, composite = found
            plan: Plan | None = PLANS[name](before, var.name, value, options_of(composite))
        elif (make := OPERATOR_PLANS.get(op_name(value))) is not None:
            plan = make(before, var.name, value, {})
        else:
            continue
        if plan is not None:
            yield Planned(var, value, plan, before)


def _rows(before: list[relax.VarBinding], x: relax.Expr, name: str) -> tuple[Size, relax.Expr]:
    """The number of rows of `x`, all axes but the last taken together, and `x` as [rows, size]."""
    sizes = shape(x)
    rows = _product(sizes[:-1])
    return rows, _flat(before, x, [rows, sizes[-1]], name)


def _flat(
    before: list[relax.VarBinding], x: relax.Expr, sizes: list[Size], name: str
) -> relax.Expr:
    return x if same_sizes(shape(x), sizes) else emit(before, relax.op.reshape(x, sizes), name)


def _product(sizes: list[Size]) -> Size:
    total: Size = 1
    for size in sizes:
        total = size if is_one(total) else total * size
    return total


def _known(size: Size) -> int | None:
    return size if isinstance(size, int) else None
