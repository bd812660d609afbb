"""Fused operators get the target's kernels and packed weights, and compute the same."""

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op

from pocketformer import targets
from pocketformer.passes.fuse_attention import FuseAttention
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.fuse_norm import FuseNorm
from pocketformer.passes.merge_qkv import MergeQkv
from pocketformer.passes.pick_kernels import PickKernels
from tests.passes.graphs import module, random, run

S, H, D = 7, 2, 16
SHAPE, W, BIAS = (1, S, H * D), (H * D, H * D), (H * D,)


def kernels(mod):
    """The names of the PrimFuncs that main calls."""
    values = [binding.value for binding in mod["main"].body.blocks[0].bindings]
    return [
        str(value.args[0].name_hint)
        for value in values
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir"
    ]


def picked(before):
    host = targets.load("host")
    mod = before
    for step in (FuseAttention(), FuseLinear(), MergeQkv(), FuseNorm(), PickKernels(host)):
        mod = step(mod)
    return mod


def check(before, *arrays):
    after = picked(before)
    expected = run(before, *arrays)[0]
    np.testing.assert_allclose(run(after, *arrays)[0], expected, atol=1e-4 * abs(expected).max())
    return kernels(after)


def test_a_linear_runs_a_gemm_with_its_epilogue():
    def body(x, r, w, b):
        return op.add(op.nn.gelu(op.add(op.matmul(x, w), b)), r)

    before = module({"x": SHAPE, "r": SHAPE}, {"w": W, "b": BIAS}, body)
    (name,) = check(before, *random(SHAPE, SHAPE, W, BIAS))
    assert "gemm" in name


def test_a_norm_takes_its_residual_before_its_weights():
    def body(x, r, g, b):
        return op.nn.layer_norm(op.add(x, r), g, b, axes=[-1], epsilon=1e-5)

    before = module({"x": SHAPE, "r": SHAPE}, {"g": BIAS, "b": BIAS}, body)
    (name,) = check(before, *random(SHAPE, SHAPE, BIAS, BIAS))
    assert "norm" in name


@pytest.mark.parametrize("length", [S, None], ids=["static", "symbolic"])
def test_attention_runs_one_kernel(length):
    size = length or tirx.Var("seq", "int64")

    def heads(x):
        return op.permute_dims(op.reshape(x, (1, size, H, D)), [0, 2, 1, 3])

    def body(x, m, wq, wk, wv):
        q, k, v = (heads(op.matmul(x, w)) for w in (wq, wk, wv))
        scores = op.add(op.matmul(q, op.permute_dims(k, [0, 1, 3, 2])), m)
        out = op.matmul(op.nn.softmax(scores), v)
        return op.reshape(op.permute_dims(out, [0, 2, 1, 3]), (1, size, H * D))

    before = module(
        {"x": (1, size, H * D), "m": (1, 1, 1, size)}, dict.fromkeys(("wq", "wk", "wv"), W), body
    )
    names = check(before, *random(SHAPE, (1, 1, 1, S), W, W, W))
    assert [name.split("_")[1] for name in names] == ["gemm", "attention"]


def test_equal_workloads_share_a_kernel():
    def body(x, v, w):
        return op.matmul(op.matmul(x, v), w)

    after = picked(module({"x": SHAPE}, {"v": W, "w": W}, body))
    assert len(set(kernels(after))) == 1


def test_a_product_of_activations_runs_a_kernel_too():
    def body(x, y):
        return op.matmul(x, y)

    before = module({"x": (2, 3, S, 8), "y": (2, 3, 8, 5)}, {}, body)
    assert len(check(before, *random((2, 3, S, 8), (2, 3, 8, 5)))) == 1


def test_what_no_template_matches_is_left_as_it_was():
    before = module({"x": (4, 8), "y": (8, 4)}, {}, op.matmul)
    after = picked(before)
    tvm.ir.assert_structural_equal(after["main"], before["main"])
