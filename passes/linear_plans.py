"""Linear layers as workloads: of float32 numbers, of short ones, and of short weights alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from pocketformer.passes.graph import Size, dtype, emit, shape
from pocketformer.passes.plan import Plan, flat, known, rows_of
from pocketformer.schedules.workloads import Linear, QuantizedLinear, WeightOnlyLinear

INTEGERS = ("int8", "uint8")


def linear(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    """The workload of the composite `linear`."""
    x, weight, *extra = call.args
    k, n = shape(weight)
    rows, x = rows_of(before, x, f"{name}_x")
    out_dtype = options.get("out_dtype", "float32")
    args = [x, weight]
    residual_at = _end(before, name, args, extra, options, rows, n)
    workload = Linear(
        m=known(rows),
        n=n,
        k=k,
        bias=bool(options["bias"]),
        activation=options["activation"],
        residual=bool(options["residual"]),
        dtype=options.get("dtype", "float32"),
        x_dtype=dtype(x),
        out_dtype=out_dtype,
    )
    in_place = residual_at if out_dtype == "float32" else None
    return Plan(workload, args, [rows, n], {"m": rows}, packed=1, in_place=in_place)


def quantized_linear(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    """The workload of the composite `quantized_linear`."""
    x, weight, weight_scale, *extra = call.args
    k, n = shape(weight)
    rows, x = rows_of(before, x, f"{name}_x")
    wide = emit(before, relax.op.astype(weight, "int32"), f"{name}_weight_wide")
    sums = emit(before, relax.op.sum(wide, axis=[0]), f"{name}_weight_sum")
    args = [x, weight, weight_scale, sums]
    by_row = bool(options.get("rows"))
    of_scales: list[Size] = [rows if by_row else 1]
    if dtype(x) != "float32":
        args.append(
            flat(before, extra.pop(0), of_scales, f"{name}_x_scale") if options.get("scaled")
            else relax.const(np.ones(1, "float32")))
    if options.get("zero"):
        args.append(flat(before, extra.pop(0), of_scales, f"{name}_x_zero"))
    out_dtype = options.get("out_dtype", "float32")
    residual_at = _end(before, name, args, extra, options, rows, n)
    workload = QuantizedLinear(
        m=known(rows),
        n=n,
        k=k,
        x_dtype=dtype(x),
        per_row=by_row,
        zero=bool(options.get("zero")),
        bias=bool(options.get("bias")),
        activation=options.get("activation", ""),
        residual=bool(options.get("residual")),
        out_dtype=out_dtype,
    )
    in_place = residual_at if out_dtype == "float32" else None
    return Plan(workload, args, [rows, n], {"m": rows}, packed=1, in_place=in_place)


def weight_only_linear(
    before: list[relax.VarBinding], name: str, call: relax.Call, options: dict[str, Any]
) -> Plan:
    """The workload of the composite `weight_only_linear`."""
    x, weight, scale, *extra = call.args
    k, n = shape(weight)
    rows, x = rows_of(before, x, f"{name}_x")
    args = [x, weight, scale]
    residual_at = _end(before, name, args, extra, options, rows, n)
    workload = WeightOnlyLinear(
        m=known(rows),
        n=n,
        k=k,
        bits=options["bits"],
        group=options["group"] if options["bits"] == 4 else None,
        bias=bool(options.get("bias")),
        activation=options.get("activation", ""),
        residual=bool(options.get("residual")),
    )
    return Plan(workload, args, [rows, n], {"m": rows}, packed=1, in_place=residual_at)


def _end(
    before: list[relax.VarBinding], name: str, args: list[relax.Expr], extra: list[relax.Expr],
    options: dict[str, Any], rows: Size, n: int,
) -> int | None:
    """Append what a linear ends with to `args`: bias, residual, factor and zero of the result.

    Returns the place of the residual.
    """
    residual_at = None
    if options.get("bias"):
        args.append(flat(before, extra.pop(0), [n], f"{name}_bias"))
    if options.get("residual"):
        residual_at = len(args)
        args.append(flat(before, extra.pop(0), [rows, n], f"{name}_residual"))
    if options.get("out_dtype") in INTEGERS:
        factor, zero = extra
        if shape(factor) != [n]:
            factor = emit(before, relax.op.broadcast_to(factor, (n,)), f"{name}_out_factor")
        args += [factor, zero]
    return residual_at
