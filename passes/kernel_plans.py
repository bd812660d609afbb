"""Fused operators as workloads: the sizes, and the arguments as a kernel takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.ir import IRModule

from pocketformer.passes import linear_plans
from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.graph import (
    Graph,
    dtype,
    emit,
    is_one,
    op_name,
    same_sizes,
    shape,
)
from pocketformer.passes.plan import Plan, flat, known, product, rows_of
from pocketformer.schedules.workloads import (
    Attention,
    BatchMatmul,
    Lookup,
    Norm,
    QuantizedMatmul,
    Softmax,
)


def _attention(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    packed = bool(options.get("packed"))
    in_int8, to_int8 = dtype(call.args[0]) == "int8", options.get("out_dtype") == "int8"
    masks = call.args[1 if packed else 3 : len(call.args) - in_int8 - 2 * to_int8]
    if packed:
        batch, q_len, _, heads, size = shape(call.args[0])
        kv_len, kv_heads, value_size = q_len, heads, size
    else:
        batch, q_len, heads, size = shape(call.args[0])
        _, kv_len, kv_heads, _ = shape(call.args[1])
        value_size = shape(call.args[2])[-1]
    workload = Attention(
        batch=known(batch),
        q_len=known(q_len),
        kv_len=known(kv_len),
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        value_size=value_size,
        scale=options["scale"],
        mask=tuple(not is_one(axis) for axis in shape(masks[0])[:3]) if masks else None,
        causal=bool(options.get("causal")),
        packed=packed,
        dtype=options.get("dtype", "float32"),
        in_dtype=dtype(call.args[0]),
        out_dtype=options.get("out_dtype", "float32"),
    )
    axes = {"batch": batch, "kv_len": kv_len} | ({} if packed else {"q_len": q_len})
    return Plan(workload, list(call.args), [batch, q_len, heads, value_size], axes)


def _norm(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    x, gamma, *extra = call.args
    size = shape(x)[-1]
    rows, x = rows_of(before, x, f"{name}_x")
    weights = [gamma, extra.pop(0)] if options["kind"] == "layer" else [gamma]
    residual = bool(options["residual"])
    added = [flat(before, extra.pop(0), [rows, size], f"{name}_residual")] if residual else []
    store, keep = options.get("store", ""), bool(options.get("keep", True))
    if store in ("int8", "rows"):
        factor = extra.pop(0) if extra else relax.const(1.0, "float32")
        extra.insert(0, _of_each_column(before, factor, size, f"{name}_factor"))
    workload = Norm(
        rows=known(rows),
        size=size,
        kind=options["kind"],
        eps=options["eps"],
        residual=residual,
        keep_sum=False,
        bias=len(weights) == 2,
        store=store,
        keep=keep,
    )
    more = [[rows, size]] * (keep and bool(store)) + [[rows], [rows]] * (store == "rows")
    args = [x, *added, *weights, *extra]
    return Plan(workload, args, [rows, size], {"rows": rows}, more=more)


def _of_each_column(
    before: list[relax.VarBinding], factor: relax.Expr, size: int, name: str
) -> relax.Expr:
    """`factor` as [size], where it is of [1] or []."""
    if same_sizes(shape(factor), [size]):
        return factor
    return emit(before, relax.op.broadcast_to(factor, [size]), name)


def _softmax(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan | None:
    if int(call.attrs.axis) not in (-1, len(shape(call)) - 1) or dtype(call) != "float32":
        return None
    rows, x = rows_of(before, call.args[0], f"{name}_x")
    size = shape(call)[-1]
    workload = Softmax(rows=known(rows), size=known(size))
    return Plan(workload, [x], [rows, size], {"rows": rows, "size": size})


def _batch_matmul(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan | None:
    left, right = call.args
    if dtype(call) != "float32" or len(shape(left)) < 3 or len(shape(left)) != len(shape(right)):
        return None
    if not same_sizes(shape(left)[:-2], shape(right)[:-2]):
        return None
    batch = product(shape(left)[:-2])
    m, k = shape(left)[-2:]
    n = shape(right)[-1]
    args = [
        flat(before, left, [batch, m, k], f"{name}_left"),
        flat(before, right, [batch, k, n], f"{name}_right"),
    ]
    workload = BatchMatmul(
        batch=known(batch), m=known(m), n=known(n), k=known(k), transpose_b=False
    )
    return Plan(workload, args, [batch, m, n], {"batch": batch, "m": m, "n": n, "k": k})


def _quantized_matmul(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    left, right, *rest = call.args
    *lead, m, k = shape(left)
    *batches, _, n = shape(right)
    batch = product(batches)
    if not batches:
        m = product([*lead, m])     # all batches are multiplied with the same
    args = [
        flat(before, left, [batch, m, k], f"{name}_left"),
        flat(before, right, [batch, k, n], f"{name}_right"),
        *rest,
    ]
    workload = QuantizedMatmul(
        batch=known(batch), m=known(m), n=known(n), k=known(k), a_dtype=dtype(left),
        b_dtype=dtype(right), out_dtype=options.get("out_dtype", "float32"),
    )    # fmt: skip
    return Plan(workload, args, [batch, m, n], {"batch": batch, "m": m, "n": n, "k": k})


def _lookup(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan | None:
    ids, table, scale = call.args
    if dtype(ids) not in ("int64", "int32"):
        return None
    rows = product(shape(ids))
    workload = Lookup(
        rows=known(rows),
        size=options["size"],
        count=shape(table)[0],
        bits=options["bits"],
        group=options["group"],
        ids_dtype=dtype(ids),
    )
    args = [flat(before, ids, [rows], f"{name}_ids"), table, scale]
    return Plan(workload, args, [rows, workload.size], {"rows": rows})


PLANS: dict[str, Callable[..., Plan | None]] = {
    "linear": linear_plans.linear,
    "quantized_linear": linear_plans.quantized_linear,
    "weight_only_linear": linear_plans.weight_only_linear,
    "attention": _attention,
    "norm": _norm,
    "lookup": _lookup,
    "quantized_matmul": _quantized_matmul,
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
    """The fused operators of a function of `mod` that some template may compute, in order.

    Not those of weights alone: they are computed at compile time, as plain operators.
    """
    for var, value in graph:
        if graph.is_weight(var):
            continue
        before: list[relax.VarBinding] = []
        if found := composite_of(mod, value):
            name, composite = found
            make = PLANS.get(name)
            plan = make(before, var.name, value, options_of(composite)) if make else None
        elif (make := OPERATOR_PLANS.get(op_name(value))) is not None:
            plan = make(before, var.name, value, {})
        else:
            continue
        if plan is not None:
            yield Planned(var, value, plan, before)
