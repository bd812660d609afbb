"""What each fused operator computes, in plain Relax operators; kernels are held to this."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from pocketformer.passes.graph import Size

BSHD_OF_BHSD = [0, 2, 1, 3]
ACTIVATIONS: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "relu": relax.op.nn.relu,
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
    "silu": relax.op.nn.silu,
    "tanh": relax.op.tanh,
    "sigmoid": relax.op.sigmoid,
}


def attention(
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    mask: relax.Expr | None = None,
    *,
    scale: float,
    causal: bool = False,
    dtype: str = "float32",
) -> relax.Expr:
    """softmax(query @ key.T * scale + mask) @ value in plain operators.

    Query is [batch, length, heads, size], key and value [batch, length, key heads, size] with a
    divisor of `heads` as their number; mask is [batch or 1, heads or 1, length or 1, key length].
    `causal` hides key j from query i where j > i + key length - length, unless finite values mask
    all others: then they weigh the same. What is multiplied is rounded to `dtype` before; kernels
    round the query times scale, and weights before they are divided by their sum.
    Returns [batch, length, heads, value size]; zeros, not NaN, where -infinity masks all keys.
    """
    q_len, kv_len = query.ty.shape[1], key.ty.shape[1]
    repeats = int(query.ty.shape[2]) // int(key.ty.shape[2])
    if repeats > 1:
        key = relax.op.repeat(key, repeats, axis=2)
        value = relax.op.repeat(value, repeats, axis=2)
    q_bhsd = relax.op.permute_dims(_rounded(query, dtype), BSHD_OF_BHSD)
    k_bhds = relax.op.permute_dims(_rounded(key, dtype), [0, 2, 3, 1])
    v_bhsd = relax.op.permute_dims(_rounded(value, dtype), BSHD_OF_BHSD)
    scores = relax.op.multiply(relax.op.matmul(q_bhsd, k_bhds), relax.const(scale, "float32"))
    if mask is not None:
        scores = relax.op.add(scores, mask)
    if causal:
        scores = _without_later_keys(scores, q_len, kv_len)
    weights = relax.op.nn.softmax(scores, axis=-1)
    weights = relax.op.where(relax.op.isnan(weights), relax.const(0.0, "float32"), weights)
    weights = _rounded(weights, dtype)
    return relax.op.permute_dims(relax.op.matmul(weights, v_bhsd), BSHD_OF_BHSD)


def _rounded(x: relax.Expr, dtype: str) -> relax.Expr:
    """x in float32, rounded to `dtype`."""
    return x if dtype == "float32" else relax.op.astype(relax.op.astype(x, dtype), "float32")


def _without_later_keys(scores: relax.Expr, q_len: Size, kv_len: Size) -> relax.Expr:
    def const(value: float) -> relax.Expr:
        return relax.const(value, "float32")

    ones = relax.op.ones((q_len, kv_len), "float32")
    seen = relax.op.greater(relax.op.tril(ones, kv_len - q_len), const(0.0))
    nothing = const(float("-inf"))
    most = relax.op.max(relax.op.where(seen, scores, nothing), -1, keepdims=True)
    lost = relax.op.logical_and(
        relax.op.less(most, const(-1e30)), relax.op.greater(most, nothing))
    return relax.op.where(seen, scores, relax.op.where(lost, most, nothing))


def packed_attention(
    qkv: relax.Expr,
    mask: relax.Expr | None = None,
    *,
    scale: float,
    causal: bool = False,
    dtype: str = "float32",
) -> relax.Expr:
    """`attention` of query, key and value that are one tensor [batch, length, 3, heads, size]."""
    builder = relax.BlockBuilder.current()
    parts = builder.emit(relax.op.split(qkv, 3, axis=2))
    query, key, value = (builder.emit(relax.op.squeeze(parts[i], axis=[2])) for i in range(3))
    return attention(query, key, value, mask, scale=scale, causal=causal, dtype=dtype)


def linear(
    x: relax.Expr,
    weight: relax.Expr,
    *rest: relax.Expr,
    bias: bool,
    activation: str,
    residual: bool,
    dtype: str = "float32",
) -> relax.Expr:
    """activation(x @ weight + bias) + residual in plain operators.

    x is [..., k], weight [k, n], bias [n], residual [..., n]; returns [..., n]. The weight's
    `dtype` may be shorter than float32: then x is rounded to it before they are multiplied.
    """
    extra = list(rest)
    if dtype != "float32":
        x, weight = _rounded(x, dtype), relax.op.astype(weight, "float32")
    out = relax.op.matmul(x, weight)
    if bias:
        out = relax.op.add(out, extra.pop(0))
    if activation:
        out = ACTIVATIONS[activation](out)
    return relax.op.add(out, extra.pop(0)) if residual else out


def norm(
    x: relax.Expr,
    gamma: relax.Expr,
    *rest: relax.Expr,
    kind: str,
    eps: float,
    residual: bool,
) -> relax.Expr:
    """(x + residual), normalised over its last axis, in plain operators.

    x and residual are [..., size], gamma and beta [size]. `kind` is layer (Ba et al. 2016, with
    beta) or rms (Zhang and Sennrich 2019, without).
    """
    extra = list(rest)
    beta = [extra.pop(0)] if kind == "layer" else []
    if residual:
        x = relax.op.add(x, extra.pop(0))
    function = relax.op.nn.layer_norm if kind == "layer" else relax.op.nn.rms_norm
    return function(x, gamma, *beta, axes=[-1], epsilon=eps)
