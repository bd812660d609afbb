"""What each fused operator computes, in plain Relax operators; kernels are held to this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm import relax

from pocketformer.passes.attention_operator import BSHD_OF_BHSD, attention, packed_attention
from pocketformer.passes.graph import dtype as dtype_of
from pocketformer.passes.rounding import quantize, quantize_rows, rounded, stored

__all__ = [
    "ACTIVATIONS", "BSHD_OF_BHSD", "attention", "body_of", "linear", "lookup", "norm",
    "packed_attention", "quantize", "quantize_rows", "quantized_linear", "quantized_matmul",
    "weight_only_linear",
]

ACTIVATIONS: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "relu": relax.op.nn.relu,
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
    "silu": relax.op.nn.silu,
    "tanh": relax.op.tanh,
    "sigmoid": relax.op.sigmoid,
}


def linear(
    x: relax.Expr,
    weight: relax.Expr,
    *rest: relax.Expr,
    bias: bool,
    activation: str,
    residual: bool,
    dtype: str = "float32",
    out_dtype: str = "float32",
) -> relax.Expr:
    """activation(x @ weight + bias) + residual in plain operators; `rest` is
    bias?, residual?, out_factor?, out_zero?.

    x is [..., k], weight [k, n], bias [n], residual [..., n]; returns [..., n] as `out_dtype`, int8
    with out_factor [n] and out_zero [1] as `quantize` has them. The weight's `dtype` may be shorter
    than float32: then x is rounded to it before they are multiplied, if it does not come as it.
    """
    if dtype_of(x) != "float32":
        x = relax.op.astype(x, "float32")
    elif dtype != "float32":
        x = rounded(x, dtype)
    if dtype != "float32":
        weight = relax.op.astype(weight, "float32")
    out = relax.op.matmul(x, weight)
    return _finished(out, list(rest), bias, activation, residual, out_dtype)


def quantized_linear(
    x: relax.Expr,
    weight: relax.Expr,
    weight_scale: relax.Expr,
    *rest: relax.Expr,
    x_dtype: str = "int8",
    scaled: bool = False,
    zero: bool = False,
    rows: bool = False,
    bias: bool = False,
    activation: str = "",
    residual: bool = False,
    out_dtype: str = "float32",
) -> relax.Expr:
    """activation((x - x_zero) @ weight * x_scale * weight_scale + bias) + residual in plain
    operators; `rest` is x_scale?, x_zero?, bias?, residual?, out_factor?, out_zero?.

    x is int8 or uint8 [..., k] and weight int8 [k, n], multiplied and added up in int32;
    weight_scale is [n], x_scale (where `scaled`, else it is 1) and x_zero (where `zero`, else 0;
    int32) are [1], or with `rows` [..., 1]. Where `x_dtype` is float32, x is quantised by
    `quantize_rows` first, and x_scale and x_zero are no arguments. Returns [..., n] as `out_dtype`,
    int8 or uint8 with out_factor [n] and out_zero [1] as `quantize` has them; for int32 the sums.
    """
    extra = list(rest)
    x_scale = x_zero = None
    if x_dtype == "float32":
        x, x_scale, x_zero = quantize_rows(x).fields
    else:
        x_scale = extra.pop(0) if scaled else None
        x_zero = extra.pop(0) if zero else None
    whole = relax.op.astype(x, "int32")
    if x_zero is not None:
        whole = relax.op.subtract(whole, x_zero)
    sums = relax.op.matmul(whole, relax.op.astype(weight, "int32"))
    if out_dtype == "int32":
        return sums
    scale = weight_scale if x_scale is None else relax.op.multiply(x_scale, weight_scale)
    out = relax.op.multiply(relax.op.astype(sums, "float32"), scale)
    return _finished(out, extra, bias, activation, residual, out_dtype)


def quantized_matmul(
    a: relax.Expr,
    b: relax.Expr,
    a_zero: relax.Expr,
    b_zero: relax.Expr,
    *rest: relax.Expr,
    out_dtype: str = "float32",
) -> relax.Expr:
    """((a - a_zero) @ (b - b_zero)) * scale in plain operators; `rest` is
    scale?, out_factor?, out_zero?.

    a is int8 or uint8 [..., m, k] and b [..., k, n] of the same batches, or [k, n]; products are
    added up in int32. Zeros are int32 [1], scale float32 [1]. Returns [..., m, n] as `out_dtype`,
    int8 or uint8 with out_factor [1] and out_zero [1] as `quantize` has them; for int32 the sums.
    """
    extra = list(rest)
    sides = [relax.op.subtract(relax.op.astype(whole, "int32"), zero)
             for whole, zero in ((a, a_zero), (b, b_zero))]
    sums = relax.op.matmul(*sides)
    if out_dtype == "int32":
        return sums
    out = relax.op.multiply(relax.op.astype(sums, "float32"), extra.pop(0))
    return stored(out, out_dtype, extra)


def weight_only_linear(
    x: relax.Expr,
    weight: relax.Expr,
    scale: relax.Expr,
    *rest: relax.Expr,
    bits: int,
    group: int,
    bias: bool = False,
    activation: str = "",
    residual: bool = False,
) -> relax.Expr:
    """activation(x @ (weight * scale) + bias) + residual in plain operators; `rest` is
    bias?, residual?.

    x is float32 [..., k], weight int8 [k, n] of `bits` bits, scale [k / group, n]; returns
    [..., n]. With 8 bits `group` is k: a column has one scale.
    """
    scales = relax.op.repeat(scale, group, axis=0)
    wide = relax.op.multiply(relax.op.astype(weight, "float32"), scales)
    return _finished(relax.op.matmul(x, wide), list(rest), bias, activation, residual, "float32")


def norm(
    x: relax.Expr,
    gamma: relax.Expr,
    *rest: relax.Expr,
    kind: str,
    eps: float,
    residual: bool,
    store: str = "",
    keep: bool = True,
) -> relax.Expr:
    """(x + residual), normalised over its last axis, in plain operators; `rest` is
    beta?, residual?, factor?, zero?.

    x and residual are [..., size], gamma, beta and factor [size]. `kind` is layer (Ba et al. 2016,
    with beta) or rms (Zhang and Sennrich 2019, without). With `store` the result is rounded as
    well: to bfloat16, to int8 as `quantize` does, or to "rows" as `quantize_rows` does.
    Returns what was asked for of (y if it is to `keep`, rounded, scale, zero), as a tuple if that
    is more than one tensor.
    """
    extra = list(rest)
    beta = [extra.pop(0)] if kind == "layer" else []
    if residual:
        x = relax.op.add(x, extra.pop(0))
    function = relax.op.nn.layer_norm if kind == "layer" else relax.op.nn.rms_norm
    y = function(x, gamma, *beta, axes=[-1], epsilon=eps)
    if not store:
        return y
    if keep or store == "rows":
        y = relax.BlockBuilder.current().emit(y)
    short = quantize_rows(y, *extra).fields if store == "rows" else [stored(y, store, extra)]
    outs = [y] * keep + list(short)
    return outs[0] if len(outs) == 1 else relax.Tuple(outs)


def lookup(
    ids: relax.Expr, table: relax.Expr, scale: relax.Expr, *, bits: int, group: int, size: int
) -> relax.Expr:
    """Rows `ids` of table * scale in plain operators.

    ids are integers of any shape; table is int8 [count, size], or with 4 `bits` uint8
    [count, size / 2]: the first of a pair in the lower half, offset by 8. scale is
    [count, size / group]. Returns float32 [..., size].
    """
    rows = relax.op.take(table, ids, axis=0, mode="wrap")
    lead = list(ids.ty.shape)
    if bits == 4:
        halves = [
            relax.op.bitwise_and(rows, relax.const(15, "uint8")),
            relax.op.right_shift(rows, relax.const(4, "uint8")),
        ]
        pairs = [relax.op.expand_dims(relax.op.astype(half, "int8"), -1) for half in halves]
        rows = relax.op.subtract(relax.op.concat(pairs, axis=-1), relax.const(8, "int8"))
    groups = relax.op.reshape(relax.op.astype(rows, "float32"), [*lead, size // group, group])
    scales = relax.op.expand_dims(relax.op.take(scale, ids, axis=0, mode="wrap"), -1)
    return relax.op.reshape(relax.op.multiply(groups, scales), [*lead, size])


def _finished(
    out: relax.Expr,
    extra: list[relax.Expr],
    bias: bool,
    activation: str,
    residual: bool,
    out_dtype: str,
) -> relax.Expr:
    """The end of a linear, with the arguments left for it."""
    if bias:
        out = relax.op.add(out, extra.pop(0))
    if activation:
        out = ACTIVATIONS[activation](out)
    if residual:
        out = relax.op.add(out, extra.pop(0))
    return stored(out, out_dtype, extra)


BODIES: dict[str, Callable[..., relax.Expr]] = {
    "attention": attention,
    "linear": linear,
    "lookup": lookup,
    "norm": norm,
    "packed attention": packed_attention,
    "quantize": quantize,
    "quantize_rows": quantize_rows,
    "quantized_linear": quantized_linear,
    "quantized_matmul": quantized_matmul,
    "weight_only_linear": weight_only_linear,
}


def body_of(kind: str, options: Mapping[str, Any], *args: relax.Expr) -> relax.Expr:
    """What the composite `kind` with these options computes of `args`."""
    options = dict(options)
    packed = "packed " * bool(options.pop("packed", False))
    return BODIES[packed + kind](*args, **options)
