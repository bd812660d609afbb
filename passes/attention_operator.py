"""What fused attention computes, in plain Relax operators; kernels are held to this."""

from __future__ import annotations

from tvm import relax

from pocketformer.passes.graph import Size, is_one, shape
from pocketformer.passes.graph import dtype as dtype_of
from pocketformer.passes.rounding import rounded, stored, symmetric
from pocketformer.schedules.cpu.attention_mask import BESIDE
from pocketformer.schedules.cpu.attention_softmax import LOWEST

BSHD_OF_BHSD = [0, 2, 1, 3]


def attention(
    query: relax.Expr,
    key: relax.Expr,
    value: relax.Expr,
    *rest: relax.Expr,
    scale: float,
    causal: bool = False,
    dtype: str = "float32",
    out_dtype: str = "float32",
) -> relax.Expr:
    """softmax(query @ key.T * scale + mask) @ value in plain operators; `rest` is
    mask?, scales?, out_factor?, out_zero?.

    Query is [batch, length, heads, size], key and value [batch, length, key heads, size] with a
    divisor of `heads` as their number; mask is [batch or 1, heads or 1, length or 1, key length].
    `causal` hides key j from query i where j > i + key length - length, unless finite values mask
    all others: then they weigh the same.

    What is multiplied is rounded to `dtype` before, or comes as it; kernels round the query times
    scale, and weights before they are divided by their sum. Of queries, keys and values in int8,
    scales [2] (float32) tell what a product of the first two and what a value stands for; those in
    float32 are rounded as `symmetric` does for int8, by the range of each query of a head, of the
    keys of a head and of its values, without those that `_counted` leaves out. Kernels round
    weights to 255 or more steps of the greatest.

    Returns [batch, length, heads, value size] as `out_dtype`, int8 with out_factor
    [heads * value size] and out_zero [1] as `quantize` has them; zeros, not NaN, where -infinity
    masks all keys.
    """
    extra = list(rest)
    out = [extra.pop(-2), extra.pop(-1)] if out_dtype == "int8" else []
    scales = extra.pop() if dtype_of(query) == "int8" else None
    mask = extra.pop() if extra else None
    if dtype == "int8" and scales is None:
        query = symmetric(query, [3])
        key, value = (symmetric(_counted(x, mask, causal), [1, 3]) for x in (key, value))
    # What comes in few bits, or is rounded by now, is only widened.
    factor = _as_it_is if dtype == "int8" or dtype_of(query) != "float32" else rounded
    heads, q_len, kv_len = query.ty.shape[2], query.ty.shape[1], key.ty.shape[1]
    size = value.ty.shape[3]
    repeats = int(heads) // int(key.ty.shape[2])
    if repeats > 1:
        key = relax.op.repeat(key, repeats, axis=2)
        value = relax.op.repeat(value, repeats, axis=2)
    q_bhsd = relax.op.permute_dims(factor(query, dtype), BSHD_OF_BHSD)
    k_bhds = relax.op.permute_dims(factor(key, dtype), [0, 2, 3, 1])
    v_bhsd = relax.op.permute_dims(factor(value, dtype), BSHD_OF_BHSD)
    scores = relax.op.multiply(relax.op.matmul(q_bhsd, k_bhds), relax.const(scale, "float32"))
    if scales is not None:
        scores = relax.op.multiply(scores, relax.op.strided_slice(scales, [0], [0], [1]))
    if mask is not None:
        scores = relax.op.add(scores, mask)
    if causal:
        scores = _without_later_keys(scores, q_len, kv_len)
    weights = relax.op.nn.softmax(scores, axis=-1)
    weights = relax.op.where(relax.op.isnan(weights), relax.const(0.0, "float32"), weights)
    if dtype != "int8":
        weights = rounded(weights, dtype)
    result = relax.op.permute_dims(relax.op.matmul(weights, v_bhsd), BSHD_OF_BHSD)
    if scales is not None:
        result = relax.op.multiply(result, relax.op.strided_slice(scales, [0], [1], [2]))
    if out:
        out[0] = relax.op.reshape(out[0], (heads, size))
    return stored(result, out_dtype, out)


def _counted(x: relax.Expr, mask: relax.Expr | None, causal: bool) -> relax.Expr:
    """Keys or values with zeros for those that no query gives a weight.

    Only a mask without axes of heads and queries tells; a causal query may see no other keys.
    """
    if mask is None or causal or not all(is_one(size) for size in shape(mask)[1:3]):
        return x
    emit = relax.BlockBuilder.current().emit
    beside = relax.op.subtract(
        relax.op.max(mask, -1, keepdims=True), relax.const(BESIDE, "float32"))
    least = relax.op.maximum(beside, relax.const(LOWEST, "float32"))
    hidden = relax.op.permute_dims(relax.op.less(mask, least), [0, 3, 1, 2])
    return emit(relax.op.where(hidden, relax.const(0.0, "float32"), x))


def _as_it_is(x: relax.Expr, dtype: str) -> relax.Expr:
    """x, which comes as `dtype`, in float32."""
    return relax.op.astype(x, "float32")


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
    *rest: relax.Expr,
    scale: float,
    causal: bool = False,
    dtype: str = "float32",
    out_dtype: str = "float32",
) -> relax.Expr:
    """`attention` of query, key and value that are one tensor [batch, length, 3, heads, size]."""
    builder = relax.BlockBuilder.current()
    parts = builder.emit(relax.op.split(qkv, 3, axis=2))
    query, key, value = (builder.emit(relax.op.squeeze(parts[i], axis=[2])) for i in range(3))
    return attention(
        query, key, value, *rest, scale=scale, causal=causal, dtype=dtype, out_dtype=out_dtype)
