"""Layers compute as their numbers say; all others stay as they are."""

import logging

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.relax import op
from tvm.relax.utils import copy_with_new_vars

from pocketformer.compiler.quantization.numbers import (
    Activation,
    CastLayer,
    DynamicAttention,
    DynamicLinear,
    Int4Linear,
    Int8Attention,
    StaticLinear,
    Table,
)
from pocketformer.passes.fuse_attention import FuseAttention
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.graph import Graph
from pocketformer.passes.merge_qkv import MergeQkv
from pocketformer.passes.quantize_layers import QuantizeLayers
from pocketformer.schedules.workloads import MOST_PRODUCTS
from tests.passes.graphs import composites, module, random, run

S, K, N = 40, 32, 24    # so many rows that the mean error of random numbers hardly varies
X, W, BIAS, RESIDUAL = (1, S, K), (K, N), (N,), (1, S, N)


def layer(x, r, w, b):
    return op.add(op.nn.relu(op.add(op.matmul(x, w), b)), r)


def linear():
    """A linear with all that may follow it, and the name that it is known by."""
    mod = FuseLinear()(module({"x": X, "r": RESIDUAL}, {"w": W, "b": BIAS}, layer))
    return mod, key_of(mod, "linear")


def key_of(mod, kind):
    for var, value in Graph(mod["main"]):
        if isinstance(value, relax.Call) and kind in str(value.op):
            return var.name
    raise AssertionError(kind)


def by_channel(weight):
    scale = abs(weight).max(0) / 127
    return np.rint(weight / scale).astype("int8"), scale.astype("float32")


def distance(found, expected):
    """The error's share of the root mean square."""
    return np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())


def static(x, w, b):
    weight, scale = by_channel(w)
    step = np.float32((x.max() - x.min()) / 255)
    zero = int(np.rint(-128 - x.min() / step))
    numbers = Activation(np.array([1 / step], "float32"), zero)
    return StaticLinear(numbers, weight, scale * step, b)


def dynamic(x, w, b):
    return DynamicLinear(None, *by_channel(w), b)


def dynamic_with_factor(x, w, b):
    """What SmoothQuant moves: the factor of a channel of x goes over to its weights."""
    factor = np.random.default_rng().uniform(0.5, 2, K).astype("float32")
    return DynamicLinear(factor, *by_channel(w / factor[:, None]), b)


def int4(x, w, b):
    groups = w.reshape(2, K // 2, N)
    scale = abs(groups).max(1) / 7
    weight = np.rint(groups / scale[:, None]).reshape(K, N).astype("int8")
    return Int4Linear(weight, scale.astype("float32"), K // 2, b)


def cast(x, w, b):
    return CastLayer("bfloat16")


ENDS = {"activation": "relu", "bias": True, "residual": True}


@pytest.mark.parametrize(
    ("numbers_of", "names", "limit"),
    [
        (static, ["quantize", "quantized_linear"], 0.02),
        (dynamic_with_factor, ["quantize_rows", "quantized_linear"], 0.02),
        (int4, ["weight_only_linear"], 0.2),
        (cast, ["linear"], 0.01),
    ],
)
def test_a_linear_computes_as_its_numbers_say(numbers_of, names, limit):
    before, key = linear()
    x, _, w, b = arrays = random(X, RESIDUAL, W, BIAS)
    after = QuantizeLayers({key: numbers_of(x, w, b)})(before)
    found = composites(after)
    assert [name for name, _ in found] == names
    assert {option: found[-1][1][option] for option in ENDS} == ENDS
    assert distance(run(after, *arrays)[0], run(before, *arrays)[0]) < limit


def test_the_bias_of_the_numbers_takes_the_place_of_the_own_one():
    before, key = linear()
    x, r, w, b = random(X, RESIDUAL, W, BIAS)
    after = QuantizeLayers({key: dynamic(x, w, None)})(before)
    assert composites(after)[-1][1]["bias"] is False
    without = run(before, x, r, w, np.zeros_like(b))[0]
    assert distance(run(after, x, r, w, b)[0], without) < 0.02


def test_an_entry_that_lacks_a_layer_is_warned_of(caplog):
    before, key = linear()
    x, _, w, b = random(X, RESIDUAL, W, BIAS)
    other = copy_with_new_vars(before["main"]).with_attr("global_symbol", "main_seq_1")
    binding = other.body.blocks[0].bindings[0]
    assert binding.var.name == key
    renamed = relax.Var("another", binding.var.ty)
    other = tvm_ffi.structural_map(
        other, (relax.Var, lambda var: renamed if var.name == key else var))
    entries = tvm.IRModule({**before.functions, "main_seq_1": other}, attrs=before.attrs)
    numbers = {key: dynamic(x, w, b)}
    QuantizeLayers(numbers)(before)
    assert not caplog.text
    QuantizeLayers(numbers)(entries)
    assert "main_seq_1 computes 1 layers in float32" in caplog.text
    assert key in caplog.text


def test_a_layer_without_numbers_stays():
    before, _ = linear()
    x, _, w, b = random(X, RESIDUAL, W, BIAS)
    after = QuantizeLayers({"another": dynamic(x, w, b)})(before)
    tvm.ir.assert_structural_equal(after, before)


@pytest.mark.parametrize("over", [0, 1])
def test_a_layer_whose_sums_may_not_fit_in_int32_stays_float32(caplog, over):
    k = MOST_PRODUCTS + over
    before = FuseLinear()(module({"x": (1, k)}, {"w": (k, 1)}, op.matmul))
    numbers = DynamicLinear(None, np.ones((k, 1), "int8"), np.ones(1, "float32"), None)
    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        after = QuantizeLayers({key_of(before, "linear"): numbers})(before)
    assert ("linear" in dict(composites(after))) == bool(over)
    assert (f"its sums of {k} products may not fit in int32" in caplog.text) == bool(over)


HEADS, SIZE = 4, 8
TOKENS, SQUARE = (2, S, HEADS * SIZE), (HEADS * SIZE, HEADS * SIZE)


def heads(x):
    return op.permute_dims(op.reshape(x, (2, S, HEADS, SIZE)), [0, 2, 1, 3])


def attention(q, k, v):
    scores = op.matmul(heads(q), op.permute_dims(heads(k), [0, 1, 3, 2]))
    scores = op.multiply(scores, relax.const(SIZE**-0.5, "float32"))
    out = op.matmul(op.nn.softmax(scores, axis=-1), heads(v))
    return op.reshape(op.permute_dims(out, [0, 2, 1, 3]), TOKENS)


def test_attention_of_three_tensors_reads_each_in_its_own_scale():
    names = dict.fromkeys("qkv", TOKENS)
    before = FuseAttention()(module(names, {}, attention))
    arrays = [array * size for array, size in zip(random(*names.values()), (1, 2, 5), strict=True)]
    numbers = Int8Attention(*(float(abs(array).max()) / 127 for array in arrays))
    after = QuantizeLayers({key_of(before, "attention"): numbers})(before)
    assert [name for name, _ in composites(after)] == ["quantize"] * 3 + ["attention"]
    assert distance(run(after, *arrays)[0], run(before, *arrays)[0]) < 0.05


def test_attention_without_scales_rounds_by_its_own_ranges():
    names = dict.fromkeys("qkv", TOKENS)
    before = FuseAttention()(module(names, {}, attention))
    arrays = random(*names.values())
    arrays[0][:, ::2] *= 100
    arrays[2][..., : SIZE] *= 1e-3
    after = QuantizeLayers({key_of(before, "attention"): DynamicAttention()})(before)
    assert [name for name, _ in composites(after)] == ["attention"]
    found, expected = (run(mod, *arrays)[0].reshape(2, S, HEADS, SIZE) for mod in (after, before))
    assert 1e-4 < max(distance(found[:, 1::2, i], expected[:, 1::2, i]) for i in range(HEADS)) < 0.1


def test_packed_attention_reads_one_tensor_in_three_scales():
    def body(x, wq, wk, wv):
        return attention(op.matmul(x, wq), op.matmul(x, wk), op.matmul(x, wv))

    weights = dict.fromkeys(("wq", "wk", "wv"), SQUARE)
    before = MergeQkv()(FuseLinear()(FuseAttention()(module({"x": TOKENS}, weights, body))))
    x, *three = arrays = random(TOKENS, *weights.values())
    numbers = Int8Attention(*(float(abs(x @ weight).max()) / 127 for weight in three))
    after = QuantizeLayers({key_of(before, "attention"): numbers})(before)
    assert [name for name, _ in composites(after)] == ["linear", "quantize", "attention"]
    assert distance(run(after, *arrays)[0], run(before, *arrays)[0]) < 0.2


@pytest.mark.parametrize("bits", [4, 8])
def test_a_lookup_reads_a_short_table(bits):
    count, size, group = 11, 16, 8
    ids = relax.const(np.random.default_rng().integers(-count, count, (2, S)), "int64")
    before = module({}, {"table": (count, size)}, lambda table: op.take(table, ids, axis=0))
    table = random((count, size))[0]
    groups = table.reshape(count, -1, group)
    scale = abs(groups).max(2) / (2 ** (bits - 1) - 1)
    rows = np.rint(groups / scale[..., None]).astype("int8").reshape(count, size)
    key = Graph(before["main"]).bindings[0].var.name
    after = QuantizeLayers({key: Table(rows, scale.astype("float32"), bits, group)})(before)
    assert [name for name, _ in composites(after)] == ["lookup"]
    expected = table[ids.value.numpy()]
    assert distance(run(after, table)[0], expected) < (0.2 if bits == 4 else 0.02)
