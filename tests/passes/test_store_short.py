"""Who computes a tensor stores it in the few bits that are read; what others read stays."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

from pocketformer.compiler.quantization.numbers import (
    Activation,
    CastLayer,
    DynamicLinear,
    Int8Attention,
    StaticLinear,
)
from pocketformer.passes.fold_quantization import FoldQuantization
from pocketformer.passes.fuse_attention import FuseAttention
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.fuse_norm import FuseNorm
from pocketformer.passes.fuse_quantized import FuseQuantized
from pocketformer.passes.graph import Graph
from pocketformer.passes.merge_qkv import MergeQkv
from pocketformer.passes.quantize_layers import QuantizeLayers
from pocketformer.passes.store_short import StoreShort
from tests.numerics.tolerance import TOLERANCE
from tests.passes.graphs import composites, module, random, run

B, S, H, D = 2, 6, 4, 8
K = H * D
X, W, SIZE = (B, S, K), (K, K), (K,)


def fused(inputs, weights, body):
    return FuseNorm()(MergeQkv()(FuseLinear()(FuseAttention()(module(inputs, weights, body)))))


def quantized(mod, *numbers):
    """`mod` whose fused products, in order, compute by these numbers (None: in float32)."""
    keys = [
        var.name for var, value in Graph(mod["main"])
        if isinstance(value, relax.Call)
        and any(kind in str(value.op) for kind in ("linear", "attention"))
    ]
    pairs = zip(keys, numbers, strict=True)
    return QuantizeLayers({key: each for key, each in pairs if each is not None})(mod)


def weights_in_int8():
    rng = np.random.default_rng()
    return rng.integers(-127, 128, W).astype("int8"), rng.uniform(0.01, 0.02, K).astype("float32")


def static(factor=20.0, zero=3):
    weight, scale = weights_in_int8()
    return StaticLinear(Activation(np.array([factor], "float32"), zero), weight, scale / 40, None)


def dynamic(factor=None):
    return DynamicLinear(factor, *weights_in_int8(), None)


def agree(after, before, inputs, weights, tolerance=0.0):
    """Both compute the same numbers, up to this share of the greatest.

    Products keep the size of what they multiply: a softmax of large scores would make a great
    difference of what is rounded the other way.
    """
    factors = (each / np.float32(len(each) ** 0.5) for each in random(*weights.values()))
    arrays = [*random(*inputs.values()), *factors]
    for found, expected in zip(run(after, *arrays), run(before, *arrays), strict=True):
        assert expected.any()
        limit = tolerance * abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def names(mod):
    return [name for name, _ in composites(mod)]


def options(mod, kind):
    return [found for name, found in composites(mod) if name == kind]


NORMED = {"gamma": SIZE, "beta": SIZE}


def normed(x, gamma, beta):
    return op.nn.layer_norm(x, gamma, beta, axes=[-1], epsilon=1e-5)


def test_a_norm_stores_int8_and_keeps_what_a_residual_reads():
    def body(x, gamma, beta, w):
        y = relax.BlockBuilder.current().emit(normed(x, gamma, beta))
        return op.add(op.matmul(y, w), y)

    inputs, weights = {"x": X}, {**NORMED, "w": W}
    before = quantized(fused(inputs, weights, body), static())
    after = StoreShort()(before)
    agree(after, before, inputs, weights)
    assert names(after) == ["norm", "quantized_linear"]
    assert {"store": "int8", "keep": True}.items() <= options(after, "norm")[0].items()


def test_a_norm_that_products_alone_read_is_not_kept():
    def body(x, gamma, beta, w, w2):
        y = relax.BlockBuilder.current().emit(normed(x, gamma, beta))
        return op.matmul(y, w), op.matmul(op.reshape(y, (B * S, K)), w2)

    inputs, weights = {"x": X}, {**NORMED, "w": W, "w2": W}
    before = quantized(fused(inputs, weights, body), static(), static())
    after = StoreShort()(before)
    assert names(after) == ["norm", "quantized_linear", "quantized_linear"]
    assert options(after, "norm")[0]["keep"] is False


def test_of_two_forms_the_one_that_more_read_is_stored():
    def body(x, gamma, beta, w, w2, w3):
        y = relax.BlockBuilder.current().emit(normed(x, gamma, beta))
        return op.matmul(y, w), op.matmul(y, w2), op.matmul(y, w3)

    inputs, weights = {"x": X}, {**NORMED, "w": W, "w2": W, "w3": W}
    before = quantized(fused(inputs, weights, body), static(10.0), static(), static())
    after = StoreShort()(before)
    assert names(after) == ["norm", "quantize", *["quantized_linear"] * 3]
    assert options(after, "norm")[0]["keep"] is True


@pytest.mark.parametrize(
    ("dtype", "compute", "reason"),
    [
        ("uint8", normed, "no kernel of norm stores uint8"),
        ("int8", lambda x, *_: op.sin(x), "no norm, product or attention computes what it reads"),
        ("int8", lambda x, gamma, beta: op.matmul(x, op.broadcast_to(gamma, W)), "factor"),
    ],
    ids=["uint8", "loop", "read twice"],
)
def test_what_is_quantised_by_a_loop_of_its_own_is_told(caplog, dtype, compute, reason):
    step, zero = relax.const(0.05, "float32"), relax.const(3, dtype)

    def body(x, gamma, beta, w):
        builder = relax.BlockBuilder.current()
        y = builder.emit(compute(x, gamma, beta))
        short = op.dequantize(builder.emit(op.quantize(y, step, zero, -1, dtype)), step, zero)
        whole = op.astype(op.clip(op.multiply(w, relax.const(40.0)), -127, 127), "int8")
        weight = op.dequantize(whole, step, relax.const(0, "int8"))
        return op.matmul(short, weight), op.tanh(y)

    inputs, weights = {"x": X}, {**NORMED, "w": W}
    before = FuseQuantized()(fused(inputs, weights, body))
    with caplog.at_level("INFO", logger="pocketformer.passes"):
        after = StoreShort()(before)
    assert "quantize" in names(after)
    assert "store_short leaves" in caplog.text
    assert reason in caplog.text


def test_a_norm_quantises_rows_with_their_factor():
    def body(x, gamma, beta, w):
        return op.matmul(op.reshape(normed(x, gamma, beta), (B * S, K)), w)

    inputs, weights = {"x": X}, {**NORMED, "w": W}
    factor = np.random.default_rng().uniform(0.5, 2, K).astype("float32")
    before = quantized(fused(inputs, weights, body), dynamic(factor))
    after = StoreShort()(before)
    agree(after, before, inputs, weights)
    assert names(after) == ["norm", "quantized_linear"]
    assert options(after, "norm")[0]["store"] == "rows"


def test_rows_that_no_norm_computes_are_left_to_the_linear():
    def body(x, w):
        return op.matmul(x, w)

    inputs, weights = {"x": X}, {"w": W}
    for factor in (None, np.full(K, 0.5, "float32")):
        before = quantized(fused(inputs, weights, body), dynamic(factor))
        after = StoreShort()(before)
        assert names(after) == ["quantized_linear"]
        [found] = options(after, "quantized_linear")
        assert (found["x_dtype"], found["rows"], found["zero"]) == ("float32", False, False)
    agree(after, before, inputs, weights)


@pytest.mark.parametrize("first", [None, static()], ids=["float32", "int8"])
def test_a_linear_stores_after_its_activation(first):
    def body(x, w, w2):
        return op.matmul(op.nn.gelu(op.matmul(x, w)), w2)

    inputs, weights = {"x": X}, {"w": W, "w2": W}
    before = quantized(fused(inputs, weights, body), first, static())
    after = StoreShort()(before)
    assert names(after) == (
        ["linear", "quantized_linear"] if first is None
        else ["quantize", "quantized_linear", "quantized_linear"])
    assert composites(after)[-2][1]["out_dtype"] == "int8"


def test_a_linear_whose_float32_result_is_read_too_stores_that():
    def body(x, w, w2):
        y = relax.BlockBuilder.current().emit(op.matmul(x, w))
        return op.matmul(y, w2), y

    before = quantized(fused({"x": X}, {"w": W, "w2": W}, body), None, static())
    tvm.ir.assert_structural_equal(StoreShort()(before), before)


def heads(x):
    return op.permute_dims(op.reshape(x, (B, S, H, D)), [0, 2, 1, 3])


def attended(x, wq, wk, wv, wo):
    query, key, value = (heads(op.matmul(x, w)) for w in (wq, wk, wv))
    scores = op.matmul(query, op.permute_dims(key, [0, 1, 3, 2]))
    mixed = op.matmul(op.nn.softmax(scores, axis=-1), value)
    return op.matmul(op.reshape(op.permute_dims(mixed, [0, 2, 1, 3]), X), wo)


SQUARES = dict.fromkeys(("wq", "wk", "wv", "wo"), W)


def test_between_int8_products_nothing_is_float32():
    qkv = StaticLinear(
        Activation(np.array([20.0], "float32"), 3),
        np.random.default_rng().integers(-127, 128, (K, 3 * K)).astype("int8"),
        np.full(3 * K, 1e-4, "float32"), None)
    attention = Int8Attention(0.01, 0.02, 0.03)
    out = static()
    smoothed = StaticLinear(
        Activation(np.random.default_rng().uniform(10, 30, K).astype("float32"), 3),
        out.weight, out.weight_scale, None)
    before = quantized(fused({"x": X}, SQUARES, attended), qkv, attention, smoothed)
    after = StoreShort()(before)
    agree(after, before, {"x": X}, SQUARES)
    assert names(after) == ["quantize", "quantized_linear", "attention", "quantized_linear"]
    assert [found.get("out_dtype") for _, found in composites(after)] == [
        None, "int8", "int8", None]


def test_between_bfloat16_products_everything_is_stored_in_it():
    cast = CastLayer("bfloat16")
    before = quantized(fused({"x": X}, SQUARES, attended), cast, cast, cast)
    after = StoreShort()(before)
    agree(after, before, {"x": X}, SQUARES, TOLERANCE["bfloat16"])
    assert [found.get("out_dtype") for _, found in composites(after)] == [
        "bfloat16", "bfloat16", None]


def test_a_norm_that_is_kept_is_not_stored_in_bfloat16_as_well():
    def body(x, gamma, beta, w):
        y = relax.BlockBuilder.current().emit(normed(x, gamma, beta))
        return op.add(op.matmul(y, w), y)

    before = quantized(fused({"x": X}, {**NORMED, "w": W}, body), CastLayer("bfloat16"))
    tvm.ir.assert_structural_equal(StoreShort()(before), before)


def test_attention_reads_bfloat16_only_where_all_of_it_comes_so():
    def body(x, wq, wk, v):
        query, key = (heads(op.matmul(x, w)) for w in (wq, wk))
        scores = op.matmul(query, op.permute_dims(key, [0, 1, 3, 2]))
        return op.matmul(op.nn.softmax(scores, axis=-1), v)

    inputs, weights = {"x": X}, {"wq": W, "wk": W, "v": (B, H, S, D)}
    mod = fused(inputs, weights, body)
    before = quantized(mod, None, None, CastLayer("bfloat16"))
    tvm.ir.assert_structural_equal(StoreShort()(before), before)


def test_a_module_of_float32_stays_as_it_is():
    before = fused({"x": X}, SQUARES, attended)
    tvm.ir.assert_structural_equal(StoreShort()(before), before)


def halves(low, high):
    """Scales of channels in two parts that are joined, or cut and joined the other way round."""
    emit = relax.BlockBuilder.current().emit
    parts = [emit(op.add(op.abs(part), relax.const(0.01, "float32"))) for part in (low, high)]
    joined = emit(op.concat(parts, axis=0))
    cut = emit(op.split(joined, 2, axis=0))
    return joined, emit(op.concat([cut[1], cut[0]], axis=0))


@pytest.mark.parametrize("turned", [False, True], ids=["joined", "cut"])
def test_a_norm_stores_by_factors_that_are_computed_after_it(turned):
    def body(x, gamma, beta, w, low, high):
        y = relax.BlockBuilder.current().emit(normed(x, gamma, beta))
        scale, zero = halves(low, high)[turned], relax.const(np.zeros(K, "int8"))
        short = op.quantize(y, scale, zero, -1, "int8")
        return op.matmul(op.dequantize(short, scale, zero, -1), w)

    inputs, weights = {"x": X}, {**NORMED, "w": W, "low": (K // 2,), "high": (K // 2,)}
    mod = FuseNorm()(FuseLinear()(FoldQuantization()(module(inputs, weights, body))))
    before = FuseQuantized()(mod)
    after = StoreShort()(before)
    agree(after, before, inputs, weights)
    assert options(after, "norm")[0]["store"] == "int8"
