"""Linears and attention on short numbers: what is rounded, and that nothing else changes."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import tvm
from tvm.relax import op

from pocketformer import targets
from pocketformer.passes.cast_products import CastProducts
from pocketformer.passes.fuse_attention import FuseAttention
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.pick_kernels import PickKernels
from tests.numerics.tolerance import TOLERANCE
from tests.passes.graphs import composites, module, random, run

S, N, K = 5, 24, 37
X, W, BIAS = (1, S, K), (K, N), (N,)


def linear(x, r, w, b):
    return op.add(op.nn.relu(op.add(op.matmul(x, w), b)), r)


def cast(before):
    return CastProducts("bfloat16")(FuseLinear()(before))


def rounded(array):
    return array.astype(ml_dtypes.bfloat16).astype("float64")


def test_a_linear_says_what_its_factors_are_rounded_to():
    before = module({"x": X, "r": (1, S, N)}, {"w": W, "b": BIAS}, linear)
    after = cast(before)
    options = {"activation": "relu", "bias": True, "residual": True, "dtype": "bfloat16"}
    assert composites(after) == [("linear", options)]
    arrays = random(X, (1, S, N), W, BIAS)
    expected = run(before, *arrays)[0]
    limit = TOLERANCE["bfloat16"] * abs(expected).max()
    np.testing.assert_allclose(run(after, *arrays)[0], expected, rtol=0, atol=limit)


def test_the_kernel_rounds_both_factors_and_nothing_else():
    before = module({"x": X, "r": (1, S, N)}, {"w": W, "b": BIAS}, linear)
    plain = replace(targets.load("host"), isa=frozenset())    # TVM's own target knows no more
    after = PickKernels(plain)(cast(before))
    x, r, w, b = arrays = random(X, (1, S, N), W, BIAS)
    expected = np.maximum(rounded(x) @ rounded(w) + b, 0) + r
    limit = TOLERANCE["float32 kernel"] * abs(expected).max()
    np.testing.assert_allclose(run(after, *arrays)[0], expected, rtol=0, atol=limit)
    names = [gvar.name_hint for gvar in after.get_global_vars()]
    assert [name.startswith("bf16_gemm_") for name in names if "linear_" in name] == [True]


def test_a_product_of_activations_stays_in_float32():
    before = module({"x": (2, 3, S, 8), "y": (2, 3, 8, 5)}, {}, op.matmul)
    tvm.ir.assert_structural_equal(cast(before), before)


def attention(q, k, v):
    weights = op.nn.softmax(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2])))
    return op.matmul(weights, v)


HEADS = {name: (1, 2, 19, 8) for name in ("q", "k", "v")}


def test_attention_says_what_its_factors_are_rounded_to():
    before = FuseAttention()(module(HEADS, {}, attention))
    after = CastProducts("bfloat16")(before)
    [(name, options)] = composites(before)
    assert composites(after) == [(name, {**options, "dtype": "bfloat16"})]
    arrays = random(*HEADS.values())
    expected = run(before, *arrays)[0]
    limit = TOLERANCE["bfloat16"] * abs(expected).max()
    np.testing.assert_allclose(run(after, *arrays)[0], expected, rtol=0, atol=limit)


def test_attention_is_not_computed_in_float16():
    before = FuseAttention()(module(HEADS, {}, attention))
    tvm.ir.assert_structural_equal(CastProducts("float16")(before), before)


def test_the_kernel_multiplies_attention_in_the_same_dtype():
    pairs = replace(targets.load("host"), arch="x86_64", isa=frozenset({"avx512f", "avx512bf16"}))
    cast = CastProducts("bfloat16")(FuseAttention()(module(HEADS, {}, attention)))
    names = [gvar.name_hint for gvar in PickKernels(pairs)(cast).get_global_vars()]
    assert [name.startswith("bf16_attention_") for name in names if "attention_" in name] == [True]
