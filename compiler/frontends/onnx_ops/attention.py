"""Fused attention and rotary embedding, taken apart into the steps that our passes look for."""

from __future__ import annotations

import math
from typing import Any

from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_broadcast import broadcast
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops.elementwise import number
from pocketformer.compiler.frontends.onnx_ops.reduction import matmul
from pocketformer.compiler.frontends.onnx_ops.shapes import symbolic
from pocketformer.compiler.frontends.onnx_ops.slices import Cut, cut
from pocketformer.compiler.frontends.onnx_values import Value

MASKED = -1e9    # added to a score that must not count; finite, so a row of them gives no NaN


def _heads(b: Builder, value: Value, count: int) -> relax.Expr:
    """[B, S, N*H] -> [B, N, S, H]; a tensor of rank 4 is that already."""
    tensor = b.tensor(value)
    if b.rank(tensor) == 4:
        return tensor
    if b.rank(tensor) != 3 or count < 1:
        raise BadModel(f"its input has rank {b.rank(tensor)} and {count} heads")
    batch, length, width = b.shape(tensor)
    if not isinstance(width, int) or width % count:
        raise BadModel(f"{count} heads do not divide {width}")
    parted = R.reshape(tensor, [batch, length, count, width // count])
    return b.emit(R.permute_dims(parted, [0, 2, 1, 3]))


def _joined(b: Builder, value: relax.Expr) -> relax.Expr:
    """[B, N, S, H] -> [B, S, N*H]."""
    batch, heads, length, width = b.shape(value)
    return R.reshape(R.permute_dims(value, [0, 2, 1, 3]), [batch, length, heads * width])


def _repeated(b: Builder, value: relax.Expr, heads: int) -> relax.Expr:
    """Every head as often as grouped queries need it, up to `heads`."""
    batch, own, length, width = b.shape(value)
    if own == heads:
        return value
    if heads % own:
        raise BadModel(f"{own} key heads do not divide {heads} query heads")
    wide = R.broadcast_to(R.expand_dims(value, 2), [batch, own, heads // own, length, width])
    return b.emit(R.reshape(wide, [batch, heads, length, width]))


def _causal(b: Builder, scores: relax.Expr) -> relax.Expr:
    rows, columns = b.shape(scores)[-2:]
    shift = b.tensor(symbolic([b.solver.simplify(columns - rows)], ()))
    row = R.expand_dims(R.add(R.arange(0, rows, 1, "int64"), shift), 1)
    ahead = R.greater(R.expand_dims(R.arange(0, columns, 1, "int64"), 0), row)
    return b.emit(R.where(ahead, number(b, MASKED, scores), number(b, 0, scores)))


def attend(
    b: Builder, q: relax.Expr, k: relax.Expr, v: relax.Expr,
    masks: list[relax.Expr], scale: float | None, causal: bool, softcap: float = 0.0,
) -> relax.Expr:    # fmt: skip
    """softmax(q @ k.T * scale + masks) @ v; all [B, N, S, H], a boolean mask is true where kept."""
    heads, width = b.shape(q)[1], b.shape(q)[3]
    k, v = _repeated(b, k, heads), _repeated(b, v, heads)
    scale = 1.0 / math.sqrt(width) if scale is None else scale
    scores = b.emit(matmul(b, q, b.emit(R.permute_dims(k, [0, 1, 3, 2]))))
    scores = b.emit(R.multiply(scores, number(b, scale, scores)))
    if softcap:
        cap = number(b, softcap, scores)
        scores = b.emit(R.multiply(R.tanh(R.divide(scores, cap)), cap))
    if causal:
        masks = [*masks, _causal(b, scores)]
    for mask in masks:
        kept, lost = number(b, 0, scores), number(b, MASKED, scores)
        added = b.emit(R.where(mask, kept, lost)) if b.dtype(mask) == "bool" else mask
        scores = b.emit(R.add(*broadcast(b, scores, added)))
    return b.emit(matmul(b, b.emit(R.nn.softmax(scores, -1)), v))


def _attention(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    """ONNX's Attention, opset 23."""
    q, k, v, mask, past_k, past_v = ([*inputs, None, None, None])[:6]
    if (len(inputs) > 6 and inputs[6] is not None) or any(node.outputs[3:]):
        raise UnsupportedOperator("it has padded key lengths, or returns its scores")
    flat = b.rank(q) == 3
    heads = node.integer("q_num_heads", 0)
    q = _heads(b, q, heads)
    k, v = (_heads(b, value, node.integer("kv_num_heads", heads)) for value in (k, v))
    if past_k is not None and past_v is not None:
        k = b.emit(R.concat([b.tensor(past_k), k], 2))
        v = b.emit(R.concat([b.tensor(past_v), v], 2))
    scale = node.number("scale", 0.0) or None
    masks = [] if mask is None else [b.tensor(mask)]
    causal = bool(node.integer("is_causal", 0))
    if causal and past_k is None and not b.solver.equal(b.shape(q)[2], b.shape(k)[2]):
        raise UnsupportedOperator("it is causal over keys and queries of different lengths")
    result = attend(b, q, k, v, masks, scale, causal, node.number("softcap", 0.0))
    return (_joined(b, result) if flat else result), k, v


def _merged_attention(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    """com.microsoft Attention: one weight makes query, key and value."""
    given = [*inputs, *[None] * 5]
    x, weight, bias, mask, past, extra = given[:6]
    if past is not None or node.attributes.get("qkv_hidden_sizes") or any(node.outputs[1:]):
        raise UnsupportedOperator("it has a past or values of another width than its keys")
    if node.integer("do_rotary", 0):
        raise UnsupportedOperator("it rotates its queries and keys")
    heads, x = node.integer("num_heads"), b.tensor(x)
    merged = b.emit(matmul(b, x, b.tensor(weight)))
    if bias is not None:
        merged = b.emit(R.add(*broadcast(b, merged, bias)))
    width = b.shape(merged)[-1]
    if not isinstance(width, int) or width % 3:
        raise BadModel(f"its weight makes {width} features, which are not three times as many")
    parts = b.emit(R.split(merged, 3, -1))
    q, k, v = (_heads(b, b.emit(relax.TupleGetItem(parts, i)), heads) for i in range(3))
    masks = [_key_mask(b, mask)] if mask is not None else []
    masks += [b.tensor(extra)] if extra is not None else []
    causal = bool(node.integer("unidirectional", 0))
    result = attend(b, q, k, v, masks, node.number("scale", 0.0) or None, causal)
    return _joined(b, result)


def _multi_head_attention(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    """com.microsoft MultiHeadAttention of three separate tensors [B, S, N*H]."""
    given = [*inputs, *[None] * 6]
    q, k, v, bias, mask, extra = given[:6]
    if k is None or v is None or any(value is not None for value in given[6:8]):
        raise UnsupportedOperator("its inputs are packed, or it has a past")
    if any(node.outputs[1:]):
        raise UnsupportedOperator("it returns its keys and values")
    parts = [b.tensor(q), b.tensor(k), b.tensor(v)]
    if bias is not None:
        begin = 0
        for index, part in enumerate(parts):
            width = b.shape(part)[-1]
            piece = cut(b, b.tensor(bias), [Cut(0, begin, width, 1)])
            parts[index] = b.emit(R.add(part, piece))
            begin += width
    heads = node.integer("num_heads")
    q, k, v = (_heads(b, part, heads) for part in parts)
    masks = [_key_mask(b, mask)] if mask is not None else []
    masks += [b.tensor(extra)] if extra is not None else []
    causal = bool(node.integer("unidirectional", 0))
    return _joined(b, attend(b, q, k, v, masks, node.number("scale", 0.0) or None, causal))


def _key_mask(b: Builder, mask: Value) -> relax.Expr:
    """[B, keys] or [B, queries, keys] of 1 for kept, as booleans for [B, N, queries, keys]."""
    if b.rank(mask) not in (2, 3):
        raise UnsupportedOperator(f"its mask has rank {b.rank(mask)}")
    kept = b.tensor(mask)
    kept = R.not_equal(kept, number(b, 0, kept))
    return b.emit(R.expand_dims(kept, [1, 2] if b.rank(mask) == 2 else 1))


def _rotary(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    x, cos, sin, positions = ([*inputs, None])[:4]
    return _rotate(b, node, x, cos, sin, positions)


def _rotary_microsoft(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    x, positions, cos, sin = inputs[:4]
    if b.shape(positions) in ((), (1,)):
        raise UnsupportedOperator("its positions are one offset")
    return _rotate(b, node, x, cos, sin, positions)


def _rotate(b: Builder, node: Node, x: Value, cos: Value, sin: Value, positions: Any) -> Any:
    flat = b.rank(x) == 3
    data = _heads(b, x, node.integer("num_heads", 0))
    width = b.shape(data)[3]
    turned = node.integer("rotary_embedding_dim", 0) or width
    if not 0 < turned <= width or turned % 2:
        raise BadModel(f"it rotates {turned} of {width} features")
    angles = []
    for table in (cos, sin):
        picked = b.tensor(table)
        if positions is not None:
            picked = b.emit(R.take(picked, b.tensor(positions), 0, mode="wrap"))
        angles.append(b.emit(R.expand_dims(picked, 1)))    # [B, 1, S, turned / 2]
    head = cut(b, data, [Cut(3, 0, turned, 1)])
    step, half = (2, 1) if node.integer("interleaved", 0) else (1, turned // 2)
    even, odd = (cut(b, head, [Cut(3, at, turned // 2, step)]) for at in (0, half))
    real = b.emit(R.subtract(R.multiply(even, angles[0]), R.multiply(odd, angles[1])))
    imaginary = b.emit(R.add(R.multiply(even, angles[1]), R.multiply(odd, angles[0])))
    if step == 2:
        pairs = R.concat([R.expand_dims(real, 4), R.expand_dims(imaginary, 4)], 4)
        result = b.emit(R.reshape(pairs, list(b.shape(head))))
    else:
        result = b.emit(R.concat([real, imaginary], 3))
    if turned < width:
        rest = cut(b, data, [Cut(3, turned, width - turned, 1)])
        result = b.emit(R.concat([result, rest], 3))
    return _joined(b, result) if flat else result


CONVERTERS: dict[str, Converter] = {
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "com.microsoft.Attention": _merged_attention,
    "com.microsoft.MultiHeadAttention": _multi_head_attention,
    "com.microsoft.RotaryEmbedding": _rotary_microsoft,
}
