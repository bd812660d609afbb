"""Attention is found in every form that exporters write, and nowhere else."""

import logging

import numpy as np
import pytest
from tvm import relax, tirx
from tvm.relax import op

from pocketformer.passes.fuse_attention import FuseAttention
from pocketformer.passes.graph import sources
from tests.passes.graphs import composites, module, random, run

B, S, H, D = 2, 6, 4, 8
SHAPE = (B, S, H * D)
INPUTS = {"q": SHAPE, "k": SHAPE, "v": SHAPE}


def heads(x, count=H, axes=(0, 2, 1, 3)):
    return op.permute_dims(op.reshape(x, (B, S, count, D)), list(axes))


def const(value):
    return relax.const(value, "float32")


def merged(out):
    return op.reshape(op.permute_dims(out, [0, 2, 1, 3]), SHAPE)


def plain(q, k, v):
    scores = op.divide(op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1))), const(D**0.5))
    return merged(op.matmul(op.nn.softmax(scores, axis=-1), heads(v)))


def key_transposed_twice(q, k, v):
    key = op.permute_dims(heads(k), [0, 1, 3, 2])
    scores = op.multiply(op.matmul(heads(q), key), const(D**-0.5))
    return merged(op.matmul(op.nn.softmax(scores, axis=-1), heads(v)))


def scaled_operands(q, k, v):
    root = const(D**-0.25)
    key = op.multiply(op.permute_dims(heads(k), [0, 1, 3, 2]), root)
    scores = op.matmul(op.multiply(heads(q), root), key)
    return merged(op.matmul(op.nn.softmax(scores, axis=-1), heads(v)))


def unscaled(q, k, v):
    scores = op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1)))
    return merged(op.matmul(op.nn.softmax(scores, axis=-1), heads(v)))


def kept_as_heads(q, k, v):
    scores = op.multiply(op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1))), const(D**-0.5))
    return op.matmul(op.nn.softmax(scores, axis=-1), heads(v))


def key_transposed_as_a_batch(q, k, v):
    flat = op.permute_dims(op.reshape(heads(k), (B * H, S, D)), [0, 2, 1])
    scores = op.multiply(op.matmul(heads(q), op.reshape(flat, (B, H, D, S))), const(D**-0.5))
    return merged(op.matmul(op.nn.softmax(scores, axis=-1), heads(v)))


def three_axes(q, k, v):
    scores = op.matmul(q, op.permute_dims(k, [0, 2, 1]))
    return op.matmul(op.nn.softmax(scores, axis=-1), v)


@pytest.mark.parametrize(
    "body",
    [
        plain,
        key_transposed_twice,
        key_transposed_as_a_batch,
        scaled_operands,
        unscaled,
        kept_as_heads,
        three_axes,
    ],
    ids=lambda body: body.__name__,
)
def test_finds_attention_and_computes_the_same(body):
    before = module(INPUTS, {}, body)
    after = FuseAttention()(before)
    assert [name for name, _ in composites(after)] == ["attention"]
    arrays = random(SHAPE, SHAPE, SHAPE)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


MASKS = {
    "keys": (B, 1, 1, S),
    "queries": (1, 1, S, S),
    "everything": (B, H, S, S),
    "two_axes": (S, S),
}


@pytest.mark.parametrize("shape", MASKS.values(), ids=MASKS.keys())
def test_takes_an_added_mask_of_any_shape(shape):
    def body(q, k, v, mask):
        scores = op.multiply(op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1))), const(D**-0.5))
        return merged(op.matmul(op.nn.softmax(op.add(scores, mask), axis=-1), heads(v)))

    before = module({**INPUTS, "mask": shape}, {}, body)
    after = FuseAttention()(before)
    assert [name for name, _ in composites(after)] == ["attention"]
    arrays = random(SHAPE, SHAPE, SHAPE, shape)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_takes_a_selected_mask():
    def body(q, k, v, mask):
        scores = op.multiply(op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1))), const(D**-0.5))
        scores = op.where(op.greater(mask, const(0.0)), scores, const(-3.4e38))
        return merged(op.matmul(op.nn.softmax(scores, axis=-1), heads(v)))

    before = module({**INPUTS, "mask": (B, 1, 1, S)}, {}, body)
    after = FuseAttention()(before)
    assert [name for name, _ in composites(after)] == ["attention"]
    arrays = random(SHAPE, SHAPE, SHAPE, (B, 1, 1, S))
    arrays[-1][..., 0] = 1.0
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_rows_of_nothing_but_selected_masks_are_the_same():
    def body(q, k, v, mask):
        scores = op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1)))
        scores = op.where(op.greater(mask, const(0.0)), scores, const(-1e4))
        return merged(op.matmul(op.nn.softmax(scores, axis=-1), heads(v)))

    before = module({**INPUTS, "mask": (B, 1, 1, S)}, {}, body)
    after = FuseAttention()(before)
    assert [name for name, _ in composites(after)] == ["attention"]
    arrays = random(SHAPE, SHAPE, SHAPE, (B, 1, 1, S))
    arrays[-1][0] = -1.0
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_scales_a_mask_that_was_scaled_with_the_scores():
    def body(q, k, v, mask):
        scores = op.add(op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1))), mask)
        return merged(op.matmul(op.nn.softmax(op.multiply(scores, const(0.3)), axis=-1), heads(v)))

    before = module({**INPUTS, "mask": (B, 1, 1, S)}, {}, body)
    after = FuseAttention()(before)
    assert composites(after) == [("attention", {"scale": pytest.approx(0.3)})]
    arrays = random(SHAPE, SHAPE, SHAPE, (B, 1, 1, S))
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_reads_shared_key_heads_in_place():
    def repeated(x):
        grouped = op.reshape(heads(x, 2), (B, 2, 1, S, D))
        return op.reshape(op.broadcast_to(grouped, (B, 2, 2, S, D)), (B, 4, S, D))

    def body(q, k, v):
        key = op.permute_dims(repeated(k), [0, 1, 3, 2])
        scores = op.multiply(op.matmul(heads(q), key), const(D**-0.5))
        return merged(op.matmul(op.nn.softmax(scores, axis=-1), repeated(v)))

    few = (B, S, 2 * D)
    before = module({"q": SHAPE, "k": few, "v": few}, {}, body)
    after = FuseAttention()(before)
    assert [name for name, _ in composites(after)] == ["attention"]
    assert [int(n) for n in after["fused_attention"].params[1].ty.shape] == [B, S, 2, D]
    arrays = random(SHAPE, few, few)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def masked(condition, hidden):
    """Attention whose scores get where(condition, 0, hidden) added."""
    def body(q, k, v, *keep):
        scores = op.multiply(op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1))), const(D**-0.5))
        mask = op.where(condition(*keep), const(0.0), const(hidden))
        return merged(op.matmul(op.nn.softmax(op.add(scores, mask), axis=-1), heads(v)))
    return body


def places(*shape):
    return op.reshape(op.arange(0, S, 1, "int64"), shape)


def up_to_query():
    return op.less_equal(places(1, 1, 1, S), places(1, 1, S, 1))


def always():
    return op.greater_equal(places(1, 1, S, 1), relax.const(0, "int64"))


def kept(keep):
    return op.greater(keep, const(0.0))


def lower():
    return relax.const(np.tri(S, dtype=bool)[None, None])


@pytest.mark.parametrize(
    "condition",
    [up_to_query, lower, lambda: op.greater(places(1, 1, S, 1), op.subtract(
        places(1, 1, 1, S), relax.const(1, "int64"))), lambda: op.logical_and(always(), lower())],
    ids=["compared", "constant", "computed", "with what always holds"],
)
def test_a_mask_of_later_keys_makes_it_causal(condition, request):
    before = module(INPUTS, {}, masked(condition, -3.4e38))
    after = FuseAttention()(before)
    ((_, options),) = composites(after)
    assert bool(options.get("causal")) == ("computed" not in request.node.name)
    arrays = random(SHAPE, SHAPE, SHAPE)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_what_always_holds_does_not_widen_a_mask():
    def condition(keep):
        return op.logical_and(always(), kept(keep))

    before = module({**INPUTS, "mask": (B, 1, 1, S)}, {}, masked(condition, -3.4e38))
    after = FuseAttention()(before)
    assert [int(n) for n in after["fused_attention"].params[3].ty.shape] == [B, 1, 1, S]
    arrays = random(SHAPE, SHAPE, SHAPE, (B, 1, 1, S))
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


@pytest.mark.parametrize("hidden", [-3.4e38, float("-inf")])
def test_causal_keeps_the_mask_of_keys(hidden):
    def condition(keep):
        return op.logical_and(up_to_query(), kept(keep))

    inputs = {**INPUTS, "mask": (B, 1, 1, S)}
    before = module(inputs, {}, masked(condition, hidden))
    after = FuseAttention()(before)
    assert composites(after)[0][1]["causal"]
    assert [int(n) for n in after["fused_attention"].params[3].ty.shape] == [B, 1, 1, S]
    arrays = random(SHAPE, SHAPE, SHAPE, (B, 1, 1, S))
    arrays[-1][..., 0] = 1.0
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


@pytest.mark.parametrize("hidden", [-3.4e38, -1e9])
def test_a_query_that_a_finite_mask_leaves_no_key_still_sees_later_keys(hidden):
    def condition(keep):
        return op.logical_and(up_to_query(), kept(keep))

    inputs = {**INPUTS, "mask": (B, 1, 1, S)}
    before = module(inputs, {}, masked(condition, hidden))
    after = FuseAttention()(before)
    assert bool(composites(after)[0][1].get("causal")) == (hidden < -1e30)
    arrays = random(SHAPE, SHAPE, SHAPE, (B, 1, 1, S))
    arrays[-1][..., 0] = -1.0
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_keys_up_to_the_one_before_are_no_causal_mask():
    def condition():
        return op.less(places(1, 1, 1, S), places(1, 1, S, 1))

    after = FuseAttention()(module(INPUTS, {}, masked(condition, -3.4e38)))
    assert not composites(after)[0][1].get("causal")


def test_a_place_between_two_keys_is_not_cut_to_the_one_before():
    def condition():
        return op.greater_equal(op.reshape(op.arange(0, S, 1, "float32"), (1, 1, 1, S)), const(0.5))

    before = module(INPUTS, {}, masked(condition, -3.4e38))
    after = FuseAttention()(before)
    assert len(after["fused_attention"].params) == 4
    arrays = random(SHAPE, SHAPE, SHAPE)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_keeps_symbolic_lengths():
    length = tirx.Var("seq", "int64")

    def body(q, k, v):
        def split(x, axes):
            return op.permute_dims(op.reshape(x, (1, length, H, D)), axes)

        scores = op.matmul(split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1]))
        out = op.matmul(op.nn.softmax(scores, axis=-1), split(v, [0, 2, 1, 3]))
        return op.reshape(op.permute_dims(out, [0, 2, 1, 3]), (1, length, H * D))

    before = module(dict.fromkeys("qkv", (1, length, H * D)), {}, body)
    after = FuseAttention()(before)
    assert [name for name, _ in composites(after)] == ["attention"]
    for size in (1, 5):
        arrays = random(*[(1, size, H * D)] * 3)
        np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-5)


def test_names_every_operator_that_it_stands_for():
    before = module(INPUTS, {}, plain)
    after = FuseAttention()(before)
    call = next(b.value for b in after["main"].body.blocks[0].bindings if sources(b.value)[1:])
    kept = {name for b in after["main"].body.blocks[0].bindings for name in sources(b.value)}
    all_names = {name for b in before["main"].body.blocks[0].bindings for name in sources(b.value)}
    assert len(sources(call)) >= 6
    assert kept == all_names


def refusal(caplog, body, inputs=None):
    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        after = FuseAttention()(module(inputs or INPUTS, {}, body))
    assert composites(after) == []
    return [record.reason for record in caplog.records]


def test_leaves_softmax_over_heads_alone(caplog):
    def body(q, k, v):
        scores = op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1)))
        return op.matmul(op.nn.softmax(scores, axis=1), heads(v))

    assert refusal(caplog, body) == ["softmax runs over axis 1 of 4"]


def test_leaves_softmax_of_an_input_alone(caplog):
    def body(q, k, v):
        return op.nn.softmax(q, axis=-1)

    assert "not of a product" in refusal(caplog, body)[0]


def test_leaves_a_mild_selected_mask_alone(caplog):
    def body(q, k, v, mask):
        scores = op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1)))
        scores = op.where(op.greater(mask, const(0.0)), scores, const(-1.0))
        return op.matmul(op.nn.softmax(scores, axis=-1), heads(v))

    reasons = refusal(caplog, body, {**INPUTS, "mask": (B, 1, 1, S)})
    assert reasons == ["masked scores become -1.0, not -infinity"]


def test_leaves_queries_that_serve_every_batch_alone(caplog):
    def body(q, k, v):
        query = op.permute_dims(op.reshape(q, (1, S, H, D)), [0, 2, 1, 3])
        scores = op.matmul(query, heads(k, axes=(0, 2, 3, 1)))
        return op.matmul(op.nn.softmax(scores, axis=-1), heads(v))

    reasons = refusal(caplog, body, {**INPUTS, "q": (1, S, H * D)})
    assert reasons == ["the batch of queries is 1, that of keys 2"]


def test_leaves_a_mask_of_more_batches_alone(caplog):
    def body(q, k, v, mask):
        scores = op.add(op.matmul(q, op.permute_dims(k, [0, 2, 1])), mask)
        return op.matmul(op.nn.softmax(scores, axis=-1), v)

    one = (1, S, D)
    reasons = refusal(caplog, body, {"q": one, "k": one, "v": one, "mask": (B, 1, S)})
    assert reasons == ["a mask gives the scores more axes or batches than their product has"]


def test_leaves_a_factor_that_adds_axes_alone(caplog):
    def body(q, k, v):
        scores = op.multiply(op.matmul(q, op.permute_dims(k, [0, 2, 1])), factor)
        return op.matmul(op.nn.softmax(scores, axis=-1), v)

    factor = relax.const(np.full((1, 1, 1, 1), 0.5, "float32"))
    assert "no constant" in refusal(caplog, body)[0]


def test_leaves_keys_without_a_batch_alone(caplog):
    def body(q, k, v):
        scores = op.matmul(heads(q), op.permute_dims(k, [0, 2, 1]))
        return op.matmul(op.nn.softmax(scores, axis=-1), v)

    reasons = refusal(caplog, body, {"q": SHAPE, "k": (H, S, D), "v": (H, S, D)})
    assert reasons == ["an operand has rank 3, the scores have 4"]


def test_leaves_probabilities_that_are_an_output_alone(caplog):
    def body(q, k, v):
        probabilities = op.nn.softmax(op.matmul(heads(q), heads(k, axes=(0, 2, 3, 1))), axis=-1)
        builder = relax.BlockBuilder.current()
        shared = builder.emit(probabilities)
        return [shared, op.matmul(shared, heads(v))]

    assert refusal(caplog, body) == [
        "the attention probabilities are used by more than a product with the values"
    ]
