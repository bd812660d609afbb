"""Rows that nothing reads are not computed; what reads others, or mixes rows, stays whole."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from pocketformer.passes.prune_rows import PruneRows
from tests.passes.graphs import module, random, run

B, S, H, D = 2, 6, 4, 8
WIDTH = H * D
X, W, BIAS = (B, S, WIDTH), (WIDTH, WIDTH), (WIDTH,)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor(("batch", "seq", 8), "float32"),
        mask: R.Tensor(("batch", 1, "seq"), "float32"),
        wk: R.Tensor((8, 8), "float32"),
        wo: R.Tensor((8, 8), "float32"),
    ) -> R.Tuple(R.Tensor(("batch", 8), "float32")):
        batch = T.int64()
        R.func_attr({"num_input": 2})
        with R.dataflow():
            key = R.matmul(x, wk)
            turned = R.permute_dims(key, axes=[0, 2, 1])
            product = R.matmul(x, turned)
            scores = R.add(product, mask)
            shares = R.nn.softmax(scores, axis=-1)
            mixed = R.matmul(shares, key)
            out = R.matmul(mixed, wo)
            total = R.add(out, x)
            first = R.strided_slice(total, (1,), (0,), (1,), assume_inbound=True)
            flat = R.reshape(first, R.shape([batch, 8]))
            outputs = (flat,)
            R.output(outputs)
        return outputs


@I.ir_module
class After:
    @R.function
    def main(
        x: R.Tensor(("batch", "seq", 8), "float32"),
        mask: R.Tensor(("batch", 1, "seq"), "float32"),
        wk: R.Tensor((8, 8), "float32"),
        wo: R.Tensor((8, 8), "float32"),
    ) -> R.Tuple(R.Tensor(("batch", 8), "float32")):
        batch = T.int64()
        R.func_attr({"num_input": 2})
        with R.dataflow():
            key = R.matmul(x, wk)
            turned = R.permute_dims(key, axes=[0, 2, 1])
            query = R.strided_slice(x, (1,), (0,), (1,), assume_inbound=True)
            product = R.matmul(query, turned)
            scores = R.add(product, mask)
            shares = R.nn.softmax(scores, axis=-1)
            mixed = R.matmul(shares, key)
            out = R.matmul(mixed, wo)
            residual = R.strided_slice(x, (1,), (0,), (1,), assume_inbound=True)
            total = R.add(out, residual)
            flat = R.reshape(total, R.shape([batch, 8]))
            outputs = (flat,)
            R.output(outputs)
        return outputs


def test_a_layer_whose_first_row_is_read_computes_that_row():
    tvm.ir.assert_structural_equal(PruneRows()(Before), After)


def take_first(x):
    return op.strided_slice(x, [1], [0], [1], assume_inbound=True)


def attention(q, k, v, mask=None):
    """Four heads, with the transposes that exporters write."""
    def heads(x):
        return op.permute_dims(op.reshape(x, (B, S, H, D)), [0, 2, 1, 3])

    scores = op.matmul(heads(q), op.permute_dims(heads(k), [0, 1, 3, 2]))
    if mask is not None:
        scores = op.add(scores, mask)
    out = op.matmul(op.nn.softmax(scores, axis=-1), heads(v))
    return op.reshape(op.permute_dims(out, [0, 2, 1, 3]), X)


def products(mod):
    """The sizes of all products of main."""
    values = [binding.value for binding in mod["main"].body.blocks[0].bindings]
    return [
        tuple(map(int, value.ty.shape)) for value in values
        if isinstance(value, relax.Call) and str(value.op.name) == "relax.matmul"
    ]    # fmt: skip


def pruned(before):
    """The module after the pass; it computes the same."""
    after = PruneRows()(before)
    arrays = random(*([int(size) for size in p.ty.shape] for p in before["main"].params))
    expected = run(before, *arrays)[0]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(run(after, *arrays)[0], expected, atol=2e-5 * abs(expected).max())
    return after


def test_a_mask_that_has_a_row_for_each_query_gives_one():
    def body(x, mask, wq, wk, wv):
        return take_first(attention(op.matmul(x, wq), op.matmul(x, wk), op.matmul(x, wv), mask))

    inputs = {"x": X, "mask": (B, 1, S, S)}
    after = pruned(module(inputs, dict.fromkeys(("wq", "wk", "wv"), W), body))
    assert products(after)[:1] == [(B, 1, WIDTH)]
    assert products(after).count((B, S, WIDTH)) == 2


def test_a_product_that_was_split_computes_one_row_of_its_query():
    def body(x, w, b):
        flat = op.add(op.matmul(op.reshape(x, (B * S, WIDTH)), w), b)
        whole = op.reshape(flat, (B, S, 3 * WIDTH))
        parts = relax.BlockBuilder.current().emit(op.split(whole, 3, axis=-1))
        return take_first(attention(parts[0], parts[1], parts[2]))

    after = pruned(module({"x": X}, {"w": (WIDTH, 3 * WIDTH), "b": (3 * WIDTH,)}, body))
    assert products(after)[0] == (B, WIDTH)
    assert products(after).count((B * S, WIDTH)) == 2


@pytest.mark.parametrize("row", [0, S - 1])
def test_a_row_that_is_looked_up_is_the_only_one(row):
    def body(x, w, table):
        total = op.add(op.matmul(x, w), table)
        return op.take(total, relax.const(row, "int64"), axis=1)

    after = pruned(module({"x": X}, {"w": W, "table": (S, WIDTH)}, body))
    assert products(after) == [(B, 1, WIDTH)]


def test_the_last_row_of_an_unknown_number_is_the_only_one():
    seq = tirx.Var("seq", "int64")

    def body(x, w):
        return op.strided_slice(op.matmul(x, w), [1], [seq - 1], [seq], assume_inbound=True)

    before = module({"x": (B, seq, WIDTH)}, {"w": W}, body)
    after = PruneRows()(before)
    assert products(after) == [(B, 1, WIDTH)]
    arrays = random(X, W)
    np.testing.assert_allclose(run(after, *arrays)[0], run(before, *arrays)[0], atol=1e-4)


def refuses(body, inputs, weights):
    before = module(inputs, weights, body)
    return PruneRows()(before).same_as(before)


def test_leaves_what_is_also_an_output():
    def body(x, w):
        whole = relax.BlockBuilder.current().emit(op.matmul(x, w))
        return [take_first(whole), whole]

    assert refuses(body, {"x": X}, {"w": W})


def test_leaves_what_another_row_is_read_of():
    def body(x, w):
        whole = relax.BlockBuilder.current().emit(op.matmul(x, w))
        other = op.strided_slice(whole, [1], [1], [2], assume_inbound=True)
        return op.add(take_first(whole), other)

    assert refuses(body, {"x": X}, {"w": W})


def test_leaves_most_of_the_rows():
    def body(x, w):
        return op.strided_slice(op.matmul(x, w), [1], [1], [S], assume_inbound=True)

    assert refuses(body, {"x": X}, {"w": W})


def test_leaves_a_row_whose_place_is_not_known():
    place = tirx.Var("n", "int64")

    def body(x, at, w):
        product = op.matmul(x, w)
        return op.strided_slice(product, [1], [place], [place + 1], assume_inbound=True)

    assert refuses(body, {"x": X, "at": (place,)}, {"w": W})


def test_says_what_mixes_the_rows(reasons):
    def body(x, w):
        return take_first(op.nn.softmax(op.matmul(x, w), axis=1))

    assert refuses(body, {"x": X}, {"w": W})
    assert [reason for _, reason in reasons()] == ["relax.nn.softmax runs over the rows"]


def test_does_not_only_move_a_slice():
    assert refuses(lambda x: take_first(op.nn.relu(x)), {"x": X}, {})
