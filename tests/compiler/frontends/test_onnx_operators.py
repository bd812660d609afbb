"""Every operator agrees with onnxruntime, with fixed and with symbolic sizes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from tests.compiler.frontends.onnx_cases import Case, build, draw, flags, ints, weight, x
from tests.numerics.check import agrees_with_onnxruntime

F = np.float32
UNARY = [
    "Abs", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu",
]    # fmt: skip
# Sizes: an output of nothing but zeros, which is refused, and a row of a mask without a key come
# less often than in a billion runs. A single sum is of positive numbers, that it has a scale.
THEMES: dict[str, list[Case]] = {
    "unary": [
        *(Case(op, x("n", 40)) for op in UNARY),
        *(Case(op, x("n", 5, low=0.1)) for op in ("Log", "Sqrt", "Reciprocal")),
        *(Case(op, x("n", 5, low=-0.9, high=0.9)) for op in ("Acos", "Asin", "Atanh")),
        Case("Acosh", x("n", low=1.1, high=9)),
        Case("Not", flags("n", 40)),
        Case("Elu", x("n"), alpha=0.3),
        Case("Celu", x("n"), alpha=0.7),
        Case("Dropout", x("n", 3)),
        Case("Cast", x("n", 5, low=-9, high=9), to=7),
        Case("Cast", ints("n", 20, low=-1, high=2), to=9),
        Case("Cast", flags("n", 40), to=1),
        Case("Cast", x("n"), to=11),
        Case("CastLike", ints("n", 40), x(1)),
        Case("Clip", x("n", 4), np.array(-1, F), np.array(1, F)),
        Case("Clip", x("n", 4), None, np.array(1, F)),
        Case("Clip", ints("n", 4), 2, None),
    ],
    "binary": [
        *(Case(op, x("n", 4), x("n", 4)) for op in ("Add", "Sub", "Mul", "Min", "Max")),
        *(Case(op, x("n", 1, 40), x(9, 1)) for op in ("Add", "Mul", "Less", "GreaterOrEqual")),
        *(
            Case(op, ints("n", 40, low=0, high=3), ints(40, low=0, high=3))
            for op in ("Greater", "LessOrEqual", "Equal")
        ),
        *(Case(op, flags("n", 40), flags(40)) for op in ("And", "Or", "Xor", "Equal")),
        Case("Div", x("n", 4), x(4, low=0.5)),
        Case("Div", ints("n", 40), ints(40, low=1, high=5)),
        Case("Div", ints("n", 40), -3),
        Case("Mod", ints("n", 40), ints(40, low=1, high=5)),
        Case("Mod", ints("n", 40), ints(40, low=-5, high=-1)),
        Case("Mod", x("n", 4), x(4, low=0.5), fmod=1),
        Case("Pow", x("n", 4), np.array(2, F)),
        Case("Pow", x("n", 4), np.array([3], F)),
        Case("Pow", x("n", 4, low=0.1), np.array(0.5, F)),
        Case("Pow", x("n", 4, low=0.1), np.array(-0.5, F)),
        Case("Pow", x("n", 4, low=0.1), np.array(-1.7, F)),
        Case("Pow", x("n", 4, low=0.1), x(4)),
        Case("Pow", ints("n", 4), 3),
        Case("Pow", ints("n", 4, low=1), ints(4, low=0, high=4)),
        Case("Pow", x("n", 4), 2),
        Case("PRelu", x("n", 4), weight(4)),
        Case("Sum", x("n", 4), x(4), x(1)),
        Case("Mean", x("n", 4), x(4), x(1)),
        Case("Min", x("n", 4), x(4), x(1)),
        Case("Where", flags("n", 1), x("n", 4), x(4)),
        Case("BitShift", ints("n", 40, low=0, dtype="uint32"), np.array(2, np.uint32),
             direction="LEFT"),
    ],
    "shapes": [
        Case("Reshape", x("n", 4), [2, -1]),
        Case("Reshape", x("n", 4), [0, 2, 2]),
        Case("Reshape", x("n", 4), [-1]),
        Case("Flatten", x(2, "n", 4), axis=2),
        Case("Flatten", x("n", 4), axis=0),
        Case("Squeeze", x(1, "n", 1), [0]),
        Case("Squeeze", x(1, 3, 1)),
        Case("Unsqueeze", x("n", 4), [0, -1]),
        Case("Transpose", x(2, "n", 4)),
        Case("Transpose", x(2, "n", 4), perm=[1, 0, 2]),
        Case("Expand", x("n", 1), [2, 1, 3]),
        Case("Expand", x(1, 4), [5, 1]),
        Case("Tile", x("n", 2), [2, 3]),
        Case("Tile", x("n", 2, 1, 3, 2), [1, 1, 4, 1, 2]),
        Case("Concat", x("n", 4), x("n", 2), axis=1),
        Case("Concat", x("n", 4), x(2, 4), axis=0),
        Case("Concat", x("n", 4), x("n", 4), axis=-1),
        Case("Pad", x("n", 4), [0, 1, 2, 3]),
        Case("Pad", x("n", 4), [0, -1, 1, 0], np.array(7, F)),
        Case("Pad", x(4, 4), [1, 1, 1, 1], mode="reflect"),
        Case("Pad", x(4, 4), [1, 1, 1, 1], mode="edge"),
        Case("DepthToSpace", x("n", 8, 2, 3), blocksize=2),
        Case("DepthToSpace", x("n", 8, 2, 3), blocksize=2, mode="CRD"),
        Case("SpaceToDepth", x("n", 2, 4, 6), blocksize=2),
        Case("Shape", x("n", 4)),
        Case("Shape", x("n", 4, 5), start=-2),
        Case("Shape", x("n", 4, 5), start=0, end=1),
        Case("Size", x("n", 4)),
    ],
    "slices": [
        Case("Slice", x("n", 8), [0, 2], [2**63 - 1, 6]),
        Case("Slice", x("n", 8), [1], [-1], [0]),
        Case("Slice", x("n", 8), [-3], [2**31 - 1], [1]),
        Case("Slice", x("n", 8), [0], [8], [1], [3]),
        Case("Slice", x("n", 8), [1], [2**62], [1], [2]),
        Case("Slice", x("n", 8), [0], [2**62], [0], [2]),
        Case("Slice", x("n", 8), [-1], [-(2**63)], [1], [-1]),
        Case("Slice", x("n", 8), [6], [1], [1], [-2]),
        Case("Slice", x("n", 8), [-1], [-(2**63)], [0], [-1]),
        Case("Slice", x("n", 8), [0], [2], [0]),
        Case("Split", x("n", 9), [2, 3, 4], outputs=3, axis=1),
        Case("Split", x(6, "n"), outputs=2),
        Case("Split", x("n", 9), [9], outputs=1, axis=1),
    ],
    "indexing": [
        Case("Gather", x("n", 8), 3, axis=1),
        Case("Gather", x("n", 8), -1, axis=0),
        Case("Gather", x("n", 8), [[0, -1], [2, 3]], axis=1),
        Case("Gather", x("n", 8), [0, -1], axis=0),
        Case("Gather", weight(9, 5), ints(2, "n", high=9)),
        Case("Gather", weight(9, 5), ints("n", low=-9, high=9, dtype="int32"), axis=0),
        Case("GatherElements", x("n", 8), ints("n", 3, low=-8, high=8), axis=1),
        Case("GatherND", x("n", 4, 5), ints("n", 2, low=-3, high=3)),
        Case("GatherND", x("n", 4, 5), ints("n", 2, 1, low=-4, high=4), batch_dims=1),
        Case("GatherND", weight(9, 5), ints(2, "n", 1, high=9)),
        Case("ScatterND", x(4, "n"), [[3], [0]], x(2, "n")),
        Case("ScatterND", x("n", 4), [[0, 1], [2, -1]], x(2), reduction="add"),
        Case("ScatterElements", x(3, "n"), ints(1, "n", low=-3, high=3), x(1, "n"), axis=0),
        Case("ArgMax", x("n", 20, 8), axis=-1),
        Case("ArgMin", x("n", 40), axis=0, keepdims=0),
        Case("ArgMax", ints("n", 30, low=0, high=3), axis=1, select_last_index=1),
        Case("TopK", x("n", 8), [3], outputs=2),
        Case("TopK", x("n", 8), [2], outputs=2, axis=1, largest=0),
        Case("OneHot", ints("n", low=-5, high=5), 5, np.array([0, 1], F)),
        Case("OneHot", ints("n", 2, low=0, high=5), 5, np.array([2, 3], F), axis=1),
    ],
    "creation": [
        Case("Trilu", x("n", 5, 5)),
        Case("Trilu", x("n", 5, 4), np.array(-1), upper=0),
        Case("Trilu", x("n", 5), np.array(1), upper=1),
        Case("EyeLike", x("n", 4)),
        Case("ConstantOfShape", [2, 3], value=numpy_helper.from_array(np.array([1.5], F))),
        Case("Range", np.array(0.0, F), np.array(2.0, F), np.array(0.25, F)),
        Case("CumSum", x("n", 6), np.array(1)),
        Case("CumSum", x("n", 6), np.array(0), exclusive=1),
        Case("CumSum", x("n", 6), np.array(-1), reverse=1),
        Case("CumSum", ints("n", 6), np.array(1), reverse=1, exclusive=1),
    ],
    "reduction": [
        *(
            Case(f"Reduce{op}", x("n", 4, 5, low=0.5), axes=[1, -1])
            for op in ["Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]
        ),
        Case("ReduceSum", x("n", 4, 5), [1], keepdims=0),
        Case("ReduceSum", x("n", 4, 5, low=0.5)),
        Case("ReduceSum", x("n", 4), noop_with_empty_axes=1),
        Case("ReduceMean", x("n", 4, low=0.5), keepdims=0),
        Case("ReduceMax", ints("n", 40), axes=[0]),
    ],
    "products": [
        Case("MatMul", x("n", 4), weight(4, 5)),
        Case("MatMul", x(2, "n", 4), x(4, 5)),
        Case("MatMul", x(2, 1, "n", 4), x(3, 4, 2)),
        Case("MatMul", x(4), x(4, "n")),
        Case("MatMul", x("n", 4), x(4)),
        Case("MatMul", x(4, low=0.5), x(4, low=0.5)),
        Case("MatMul", x(2, "n"), x("n", 3)),
        Case("Gemm", x("n", 4), weight(5, 4), weight(5), transB=1),
        Case("Gemm", x(4, "n"), weight(4, 5), weight(1, 5), transA=1, alpha=0.5, beta=2.0),
        Case("Gemm", x("n", 4), x(4, 5)),
        Case("Einsum", x("n", 3, 4), x("n", 5, 4), equation="bij,bkj->bik"),
        Case("Einsum", x(2, "n", 3), x(3, 4), equation="b n h, h d -> b n d"),
        Case("Einsum", x("n", 3), equation="ij->ji"),
    ],
    "convolution": [
        Case("Conv", x("n", 4, 9), weight(6, 4, 3), weight(6), pads=[1, 1]),
        Case("Conv", x("n", 4, 9), weight(8, 4, 3), strides=[2]),
        Case("Conv", x("n", 4, 8, 7), weight(6, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 1]),
        Case("Conv", x("n", 4, 8, 7), weight(4, 1, 3, 3), weight(4), group=4, dilations=[2, 1]),
        Case("Conv", x("n", 4, 8, 7), weight(6, 2, 3, 3), group=2, auto_pad="SAME_UPPER"),
        Case("Conv", x("n", 4, 8, 7), weight(6, 4, 2, 2), strides=[2, 2], auto_pad="SAME_LOWER"),
        Case("Conv", x(2, 3, "n"), weight(4, 3, 3), weight(4), pads=[1, 1]),
        Case("ConvTranspose", x("n", 4, 5, 5), weight(4, 3, 2, 2), weight(3), strides=[2, 2]),
        Case("ConvTranspose", x("n", 4, 5), weight(4, 3, 3), pads=[1, 1], strides=[2],
             output_padding=[1]),
        Case("MaxPool", x("n", 3, 8, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        Case("MaxPool", x("n", 3, 8), kernel_shape=[2], strides=[2]),
        Case("AveragePool", x("n", 3, 8, 7), kernel_shape=[2, 3], pads=[0, 1, 0, 1]),
        Case("AveragePool", x("n", 3, 8, 7), kernel_shape=[3, 3], pads=[1, 1, 1, 1],
             count_include_pad=1),
        Case("GlobalAveragePool", x("n", 3, 8, 7)),
        Case("GlobalMaxPool", x("n", 3, 8, 7)),
        Case("BatchNormalization", x("n", 3, 4, 4), weight(3), weight(3), weight(3),
             abs(weight(3)) + 1),
        Case("BatchNormalization", x("n", 3, 4), weight(3), weight(3), x(3), x(3, low=0.5)),
        Case("Resize", x("n", 2, 4, 6), None, np.array([1, 1, 2, 2], F), mode="nearest"),
        Case("Resize", x("n", 2, 4, 6), None, np.array([1, 1, 2, 1.5], F), mode="linear"),
        Case("Resize", x(2, 2, 4, 6), None, None, [2, 2, 7, 9], mode="linear",
             coordinate_transformation_mode="align_corners"),
        Case("Resize", x("n", 2, 4, 6), None, np.array([1, 1, 2, 2], F), mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        Case("Resize", x("n", 2, 4, 6), None, np.array([1, 1, 2, 2], F), mode="cubic"),
    ],
    "normalization": [
        Case("Softmax", x("n", 4, 5)),
        Case("Softmax", x("n", 4, 5), axis=1),
        Case("LogSoftmax", x("n", 4, 5), axis=-1),
        Case("LayerNormalization", x("n", 3, 8), weight(8), weight(8), epsilon=1e-6),
        Case("LayerNormalization", x("n", 3, 8), weight(8)),
        Case("LayerNormalization", x("n", 3, 8), weight(3, 8), weight(3, 8), axis=1),
        Case("LayerNormalization", x("n", 3, 8), weight(8), weight(8), outputs=3),
        Case("InstanceNormalization", x("n", 3, 8), weight(3), weight(3)),
        Case("LpNormalization", x("n", 8), axis=1),
        Case("LpNormalization", x("n", 8), axis=0, p=1),
    ],
}    # fmt: skip


OLDER: dict[str, list[Case]] = {    # opset 11: what were attributes then
    "older": [
        Case("Softmax", x("n", 4, 5), axis=1),
        Case("Softmax", x("n", 4, 5)),
        Case("LogSoftmax", x("n", 4, 5), axis=0),
        Case("Squeeze", x("n", 1, 3), axes=[1]),
        Case("Unsqueeze", x("n", 3), axes=[1, -1]),
        Case("Split", x("n", 9), outputs=2, axis=1, split=[4, 5]),
        Case("ReduceSum", x("n", 4, 5), axes=[-1], keepdims=0),
        Case("Dropout", x("n", 4), ratio=0.5),
        Case("Clip", x("n", 4), np.array(-0.5, F)),
    ]
}
NEWER: dict[str, list[Case]] = {    # opset 23
    "newer": [
        Case("Mish", x("n", 4)),
        Case("Gelu", x("n", 4)),
        Case("Gelu", x("n", 4), approximate="tanh"),
        Case("BitwiseAnd", ints("n", 40), ints(40)),
        Case("BitwiseOr", ints("n", 40), ints(40)),
        Case("BitwiseXor", ints("n", 40), ints(40)),
        Case("BitwiseNot", ints("n", 4)),
        Case("Split", x("n", 7), num_outputs=3, outputs=3, axis=1),
        Case("ReduceMean", x("n", 4, 5), [-1]),
        Case("ReduceMax", x("n", 4, 5), [0, 2], keepdims=0),
        Case("ReduceL2", x("n", 4, 5), [1]),
        Case("Pad", x("n", 4), [1, 2], np.array(3, F), [1]),
        Case("RMSNormalization", x("n", 3, 8), weight(8), epsilon=1e-6),
        Case("GroupNormalization", x("n", 6, 8), weight(6), weight(6), num_groups=3),
        Case("Unsqueeze", x("n", 4), [1]),
    ],
    "attention": [
        Case("Attention", x(2, 4, "n", 8), x(2, 4, 7, 8), x(2, 4, 7, 8)),
        Case("Attention", x(2, 4, "n", 8), x(2, 2, "n", 8), x(2, 2, "n", 8), is_causal=1),
        Case("Attention", x(2, 4, "n", 8), x(2, 4, 7, 8), x(2, 4, 7, 8), x("n", 7), scale=0.3),
        Case("Attention", x(2, "n", 32), x(2, 40, 32), x(2, 40, 32), flags("n", 40),
             q_num_heads=4, kv_num_heads=4),
        Case("Attention", x(2, 4, "n", 8), x(2, 4, 7, 8), x(2, 4, 7, 8), softcap=2.0),
        Case("Attention", x(1, 4, 3, 8), x(1, 4, 3, 8), x(1, 4, 3, 8), None,
             x(1, 4, "n", 8), x(1, 4, "n", 8), outputs=3),
        Case("RotaryEmbedding", x(2, 4, "n", 8), weight(16, 4), weight(16, 4),
             ints(2, "n", low=0, high=16)),
        Case("RotaryEmbedding", x(2, "n", 32), weight(16, 4), weight(16, 4),
             ints(2, "n", low=0, high=16), num_heads=4, interleaved=1),
        Case("RotaryEmbedding", x(2, 4, "n", 8), weight(16, 2), weight(16, 2),
             ints(2, "n", low=0, high=16), rotary_embedding_dim=4),
    ],
}    # fmt: skip
M = "com.microsoft"
MICROSOFT: dict[str, list[Case]] = {
    "microsoft": [
        Case("Gelu", x("n", 8), domain=M),
        Case("QuickGelu", x("n", 8), domain=M),
        Case("QuickGelu", x("n", 8), domain=M, alpha=1.0),
        Case("FastGelu", x("n", 8), domain=M),
        Case("FastGelu", x("n", 8), weight(8), domain=M),
        Case("BiasGelu", x("n", 8), weight(8), domain=M),
        Case("SkipLayerNormalization", x(2, "n", 8), x(2, "n", 8), weight(8), weight(8), weight(8),
             domain=M, epsilon=1e-5),
        Case("SkipLayerNormalization", x(2, "n", 8), x(2, "n", 8), weight(8), domain=M),
        Case("SkipSimplifiedLayerNormalization", x(2, "n", 8), x(2, "n", 8), weight(8), domain=M),
        Case("Attention", x(2, "n", 16), weight(16, 48), weight(48), domain=M, num_heads=4),
        Case("Attention", x(2, "n", 16), weight(16, 48), weight(48), domain=M, num_heads=4,
             unidirectional=1),
        Case("Attention", x(2, "n", 16), weight(16, 48), weight(48),
             ints(2, "n", low=1, high=2, dtype="int32"), domain=M, num_heads=2),
        Case("MultiHeadAttention", x(2, "n", 16), x(2, 5, 16), x(2, 5, 16), domain=M, num_heads=4),
        Case("MultiHeadAttention", x(2, "n", 16), x(2, 5, 16), x(2, 5, 16), weight(48), domain=M,
             num_heads=4),
        Case("RotaryEmbedding", x(2, 4, "n", 8), ints(2, "n", low=0, high=16), weight(16, 4),
             weight(16, 4), domain=M),
        Case("FusedMatMul", x(2, 4, "n"), x(2, 5, 4), domain=M, transA=1, transB=1, alpha=0.3),
        Case("FusedMatMul", x(2, "n", 4), weight(4, 5), domain=M),
        Case("FusedGemm", x("n", 4), weight(5, 4), weight(5), domain=M, transB=1,
             activation="Tanh"),
        Case("FusedConv", x("n", 4, 8, 7), weight(6, 4, 3, 3), weight(6), domain=M,
             activation="Relu"),
    ]
}    # fmt: skip
OPSETS = {**dict.fromkeys(THEMES, 17), "older": 11, "newer": 23, "attention": 23, "microsoft": 17}
ALL = {**THEMES, **OLDER, **NEWER, **MICROSOFT}


@pytest.mark.parametrize("sizes", ["fixed", "symbolic"])
@pytest.mark.parametrize("theme", ALL)
def test_agrees_with_onnxruntime(theme, sizes):
    proto, inputs = build(ALL[theme], OPSETS[theme])
    if sizes == "fixed":
        agrees_with_onnxruntime(proto, draw(inputs, n=3), dims={"n": 3})
    else:
        agrees_with_onnxruntime(proto, draw(inputs, n=3), draw(inputs, n=6))
