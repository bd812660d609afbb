"""What depends on weights alone is computed at compile time, once."""

import numpy as np
import pytest
from tvm import relax, tirx
from tvm.relax import op

from pocketformer.compiler.folding import Folding
from tests.passes.graphs import module, random, run

X, W = (2, 8), (8, 24)


def folded(before, weights):
    folding = Folding(weights)
    after = folding.module(before)
    return relax.transform.CanonicalizeBindings()(after), folding.kept


def test_a_packed_weight_replaces_the_weight():
    def body(x, w):
        packed = op.permute_dims(op.reshape(w, (8, 3, 8)), [1, 0, 2])
        return op.matmul(x, op.reshape(packed, (8, 24)))

    x, w = random(X, W)
    before = module({"x": X}, {"w": W}, body)
    after, kept = folded(before, {"w": w})
    assert [value.shape for value in kept.values()] == [W]
    assert "permute" not in after.script()
    assert [param.name for param in after["main"].params] == ["x", *kept]
    expected = run(before, x, w)[0]
    np.testing.assert_allclose(run(after, x, *kept.values())[0], expected, atol=1e-5)


def test_a_weight_that_is_read_both_ways_stays_beside_its_packed_form():
    def body(x, w):
        return [op.matmul(x, w), op.matmul(x, op.multiply(w, relax.const(2.0)))]

    x, w = random(X, W)
    after, kept = folded(module({"x": X}, {"w": W}, body), {"w": w})
    assert len(kept) == 2
    once, twice = run(after, x, *kept.values())
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


def test_equal_results_are_kept_once():
    def body(x, w):
        return [op.matmul(x, op.permute_dims(w)), op.add(op.matmul(x, op.permute_dims(w)), x)]

    _, kept = folded(module({"x": (8, 8)}, {"w": (8, 8)}, body), {"w": random((8, 8))[0]})
    assert len(kept) == 1


def test_joined_weights_of_different_layers_stay_apart():
    def body(x, a, b, c, d):
        first, second = op.concat([a, b], axis=1), op.concat([c, d], axis=1)
        return [op.matmul(x, first), op.matmul(x, second)]

    arrays = random((8, 8), *[(8, 4)] * 4)
    weights = dict(zip("abcd", arrays[1:], strict=True))
    before = module({"x": (8, 8)}, dict.fromkeys("abcd", (8, 4)), body)
    after, kept = folded(before, weights)
    results = run(after, arrays[0], *kept.values())
    for got, expected in zip(results, run(before, *arrays), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_small_results_become_part_of_the_code():
    def body(x, w):
        return op.add(x, op.reshape(op.multiply(w, relax.const(0.5)), (1, 8)))

    x, w = random(X, (8,))
    after, kept = folded(module({"x": X}, {"w": (8,)}, body), {"w": w})
    assert kept == {}
    np.testing.assert_allclose(run(after, x)[0], x + w / 2, atol=1e-6)


def test_operators_that_numpy_lacks_are_compiled():
    x, w = random(X, (8, 8))
    before = module({"x": X}, {"w": (8, 8)}, lambda x, w: op.matmul(x, op.nn.softmax(w)))
    after, kept = folded(before, {"w": w})
    assert "softmax" not in after.script()
    np.testing.assert_allclose(
        run(after, x, *kept.values())[0], run(before, x, w)[0], atol=1e-5
    )


def test_a_large_expansion_is_left_to_run_time():
    def body(x, w):
        return op.add(x, op.broadcast_to(w, (1024, 1024)))

    before = module({"x": (1024, 1024)}, {"w": (1, 1024)}, body)
    _, kept = folded(before, {"w": random((1, 1024))[0]})
    assert [value.shape for value in kept.values()] == [(1, 1024)]


def test_what_needs_a_symbolic_size_is_left_to_run_time():
    rows = tirx.Var("seq", "int64")

    def body(x, w):
        return op.add(x, op.broadcast_to(w, (rows, 32)))

    _, kept = folded(module({"x": (rows, 32)}, {"w": (1, 32)}, body), {"w": random((1, 32))[0]})
    assert [value.shape for value in kept.values()] == [(1, 32)]


def test_what_follows_a_symbolic_size_is_left_to_run_time():
    rows = tirx.Var("seq", "int64")

    def body(x, w):
        return op.multiply(x, op.negative(op.reshape(op.broadcast_to(w, (rows, 32)), (rows, 4, 8))))

    before = module({"x": (rows, 4, 8)}, {"w": (1, 32)}, body)
    after, kept = folded(before, {"w": random((1, 32))[0]})
    assert [value.shape for value in kept.values()] == [(1, 32)]
    x, w = random((3, 4, 8), (1, 32))
    np.testing.assert_array_equal(run(after, x, w)[0], x * -w.reshape(1, 4, 8))


@pytest.mark.parametrize("axis", [None, 1, [0, -1]], ids=str)
@pytest.mark.parametrize("keepdims", [False, True], ids=["reduced", "kept"])
def test_sums_of_weights_are_known(axis, keepdims):
    def body(x, w):
        return op.multiply(x, op.sum(w, axis, keepdims))

    x, w = random((1, 1), (4, 6, 4))
    before = module({"x": (1, 1)}, {"w": (4, 6, 4)}, body)
    after, kept = folded(before, {"w": w})
    expected = run(before, x, w)[0]
    np.testing.assert_allclose(run(after, x, *kept.values())[0], expected, atol=1e-4)


def test_a_short_result_keeps_its_dtype():
    def body(x):
        places = op.arange(0, 2, 1, dtype="int64")
        return [op.add(x, op.astype(places, "float32")), op.add(places, relax.const(1, "int64"))]

    after, kept = folded(module({"x": (8, 2)}, {}, body), {})
    assert not kept
    assert run(after, *random((8, 2)))[1].dtype == "int64"


def test_a_large_constant_that_a_kernel_takes_becomes_a_weight():
    table = random((2, 24))[0]

    def body(x):
        return op.add(op.add(x, relax.const(table)), relax.const(table[:, :1]))

    before = module({"x": (2, 24)}, {}, body)
    fused = relax.transform.LegalizeOps()(before)
    after, kept = folded(fused, {})
    assert [value.shape for value in kept.values()] == [(2, 24)]
    [x] = random((2, 24))
    expected = x + table + table[:, :1]
    np.testing.assert_allclose(run(after, x, *kept.values())[0], expected, rtol=1e-6)
