"""Self-attention reads query, key and value from one product where they come from one input."""

import logging

import numpy as np
from tvm import relax
from tvm.relax import op

from pocketformer.passes.fuse_attention import FuseAttention
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.merge_qkv import MergeQkv
from tests.passes.graphs import composites, module, random, run

B, S, H, D = 2, 6, 4, 8
SHAPE, W, BIAS = (B, S, H * D), (H * D, H * D), (H * D,)


def heads(x):
    return op.permute_dims(op.reshape(x, (B, S, H, D)), [0, 2, 1, 3])


def attention(q, k, v):
    scores = op.matmul(heads(q), op.permute_dims(heads(k), [0, 1, 3, 2]))
    scores = op.multiply(scores, relax.const(D**-0.5, "float32"))
    out = op.matmul(op.nn.softmax(scores, axis=-1), heads(v))
    return op.reshape(op.permute_dims(out, [0, 2, 1, 3]), SHAPE)


def fused(before):
    return MergeQkv()(FuseLinear()(FuseAttention()(before)))


def test_three_linears_become_one():
    def body(x, wq, wk, wv, bq, bv):
        query, value = op.add(op.matmul(x, wq), bq), op.add(op.matmul(x, wv), bv)
        return attention(query, op.matmul(x, wk), value)

    weights = {"wq": W, "wk": W, "wv": W, "bq": BIAS, "bv": BIAS}
    before = module({"x": SHAPE}, weights, body)
    after = fused(before)
    assert [name for name, _ in composites(after)] == ["linear", "attention"]
    arrays = random(SHAPE, *weights.values())
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-3)


def test_a_product_that_was_split_stays_whole():
    def body(x, w):
        parts = relax.BlockBuilder.current().emit(op.split(op.matmul(x, w), 3, axis=-1))
        return attention(parts[0], parts[1], parts[2])

    before = module({"x": SHAPE}, {"w": (H * D, 3 * H * D)}, body)
    after = fused(before)
    assert [name for name, _ in composites(after)] == ["linear", "attention"]
    assert "split" not in after["main"].script()
    arrays = random(SHAPE, (H * D, 3 * H * D))
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-3)


def refusal(caplog, body, inputs, weights):
    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        after = fused(module(inputs, weights, body))
    assert composites(after)[-1][1].keys() == {"scale"}
    return [record.reason for record in caplog.records if record.pass_name == "merge_qkv"]


def test_leaves_cross_attention_alone(caplog):
    def body(x, memory, wq, wk, wv):
        return attention(op.matmul(x, wq), op.matmul(memory, wk), op.matmul(memory, wv))

    inputs, weights = {"x": SHAPE, "memory": SHAPE}, {"wq": W, "wk": W, "wv": W}
    assert refusal(caplog, body, inputs, weights) == [
        "query, key and value are computed from different inputs"
    ]


def test_leaves_parts_in_another_order_alone(caplog):
    def body(x, w):
        parts = relax.BlockBuilder.current().emit(op.split(op.matmul(x, w), 3, axis=-1))
        return attention(parts[1], parts[0], parts[2])

    assert refusal(caplog, body, {"x": SHAPE}, {"w": (H * D, 3 * H * D)})
