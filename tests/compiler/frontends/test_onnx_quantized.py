"""Operators on quantised tensors agree with onnxruntime within one step, and most exactly."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pocketformer.compiler.errors import BadModel, PocketformerError, UnsupportedOperator
from pocketformer.compiler.frontends.onnx import load_onnx
from tests.compiler.frontends.onnx_cases import Case, build, draw, ints, weight, x
from tests.numerics.check import agrees_with_onnxruntime, compile_plainly, reference

F = np.float32
M = "com.microsoft"
STEP, U8, S8 = np.array(0.05, F), np.array(130, np.uint8), np.array(-3, np.int8)


def u8(*shape):
    return ints(*shape, low=0, high=256, dtype="uint8")


def s8(*shape):
    return ints(*shape, low=-128, high=128, dtype="int8")


def some(dtype, *shape):
    """A constant of all the integers of a dtype."""
    limits = np.iinfo(dtype)
    return np.random.default_rng().integers(limits.min, limits.max + 1, shape).astype(dtype)


def few(dtype, low, *shape):
    """A constant of all the integers of 4 bits."""
    return np.random.default_rng().integers(low, low + 16, shape).astype(dtype)


def scales(count):
    return np.random.default_rng().uniform(0.01, 0.1, count).astype(F)


FLOATS = [
    Case("DequantizeLinear", u8("n", 40), STEP, U8),
    Case("DequantizeLinear", s8("n", 40), STEP),
    Case("DequantizeLinear", s8("n", 4, 5), scales(4), some("int8", 4)),
    Case("DequantizeLinear", s8("n", 4, 5), scales(5), some("int8", 5), axis=-1),
    Case("DequantizeLinear", some("uint8", 7, 5), scales(5), some("uint8", 5), axis=1),
    Case("DequantizeLinear", ints("n", 4, dtype="int32"), STEP),
    Case("DequantizeLinear", u8("n", 4), x(1, low=0.1), u8(1)),
    Case("DequantizeLinear", s8("n", 4), STEP, S8, domain=M),
    Case("MatMulIntegerToFloat", u8("n", 8), some("int8", 8, 5), STEP, scales(5), U8,
         some("int8", 5), weight(5), domain=M),
    Case("MatMulIntegerToFloat", u8("n", 8), some("uint8", 8, 5), STEP, STEP, U8, U8, domain=M),
    Case("DynamicQuantizeMatMul", x("n", 8), some("int8", 8, 5), scales(5), some("int8", 5),
         weight(5), domain=M),
    Case("DynamicQuantizeMatMul", x("n", 8, low=1.0), some("uint8", 8, 5), STEP, U8, domain=M),
    Case("QGemm", u8("n", 8), STEP, U8, some("int8", 5, 8), scales(5), np.zeros(5, np.int8),
         some("int8", 5).astype("int32"), domain=M, transB=1, alpha=0.5),
    Case("DequantizeLinear", few(ml_dtypes.int4, -8, 64, 5), scales(10).reshape(2, 5),
         few(ml_dtypes.int4, -8, 2, 5), axis=0, block_size=32),
    Case("DequantizeLinear", few(ml_dtypes.uint4, 0, 48, 5), scales(15).reshape(3, 5),
         np.full((3, 5), 8, ml_dtypes.uint4), axis=0, block_size=16),
    Case("MatMulNBits", x("n", 64), some("uint8", 5, 2, 16), scales(10), domain=M, N=5, K=64,
         bits=4, block_size=32),
    Case("MatMulNBits", x(2, "n", 64), some("uint8", 5, 4, 8), scales(20), some("uint8", 10),
         domain=M, N=5, K=64, bits=4, block_size=16),
    Case("MatMulNBits", x("n", 40), some("uint8", 5, 2, 16), scales(10), None, None, weight(5),
         domain=M, N=5, K=40, bits=4, block_size=32),
    Case("MatMulNBits", x("n", 64), some("uint8", 5, 2, 32), scales(10), some("uint8", 10),
         domain=M, N=5, K=64, bits=8, block_size=32),
]    # fmt: skip
WHOLE = [
    Case("QuantizeLinear", x("n", 40), STEP, U8),
    Case("QuantizeLinear", x("n", 40, low=-20, high=20), STEP, S8),
    Case("QuantizeLinear", x("n", 40), STEP),
    Case("QuantizeLinear", x("n", 4, 5), scales(4), some("int8", 4)),
    Case("QuantizeLinear", weight(4, 5), scales(5), some("uint8", 5), axis=-1),
    Case("QuantizeLinear", F(1.234).reshape(()), STEP, U8),
    Case("QuantizeLinear", x("n", 4), STEP, S8, domain=M),
    Case("DynamicQuantizeLinear", x("n", 40), outputs=3),
    Case("DynamicQuantizeLinear", x("n", 40, low=1.0), outputs=3),
    Case("DynamicQuantizeLinear", x("n", 40, high=-1.0), outputs=3),
    Case("DynamicQuantizeLinear", x("n", 40, low=0.0, high=0.0), outputs=3),
    Case("MatMulInteger", u8("n", 8), some("int8", 8, 5)),
    Case("MatMulInteger", u8("n", 8), some("uint8", 8, 5), U8, U8),
    Case("MatMulInteger", s8(2, "n", 8), some("int8", 8, 5), S8, some("int8", 5)),
    Case("MatMulInteger", u8(2, "n", 8), s8(2, 8, 3), u8(1)),
    Case("QLinearMatMul", u8("n", 8), STEP, U8, some("int8", 8, 5), STEP, S8, F([3.0]), U8),
    Case("QLinearMatMul", s8("n", 8), STEP, S8, some("int8", 8, 5), scales(5),
         np.zeros(5, np.int8), F([3.0]), S8),
    Case("QLinearMatMul", u8(2, "n", 8), STEP, U8, u8(2, 8, 3), STEP, U8, F([3.0]), U8),
    Case("QGemm", u8("n", 8), STEP, U8, some("int8", 8, 5), STEP, S8, None, F(3.0), U8, domain=M),
    Case("QLinearAdd", u8("n", 4), STEP, U8, u8(4), STEP, U8, F(0.13), U8, domain=M),
    Case("QLinearMul", s8("n", 4), STEP, S8, s8("n", 4), STEP, S8, F(0.29), S8, domain=M),
    Case("QLinearSigmoid", u8("n", 4), STEP, U8, F(1 / 256), np.uint8(0), domain=M),
    Case("QLinearLeakyRelu", u8("n", 4), STEP, U8, F(0.05), U8, domain=M, alpha=0.2),
    Case("QLinearSoftmax", u8("n", 9), STEP, U8, F(1 / 256), np.uint8(0), domain=M, axis=-1,
         opset=13),
    Case("QLinearConcat", F(0.13), U8, u8("n", 4), STEP, U8, u8("n", 3), STEP, U8, domain=M,
         axis=1),
]    # fmt: skip


def test_operators_with_float_results_agree_with_onnxruntime():
    proto, inputs = build(FLOATS, opset=21)
    agrees_with_onnxruntime(proto, draw(inputs, n=3), draw(inputs, n=6))


def test_operators_with_integer_results_are_within_one_step_of_onnxruntime():
    proto, inputs = build(WHOLE, opset=21)
    compiled = compile_plainly(load_onnx(proto))
    for n in (30, 60):      # of so many numbers a tenth lies next to no tie
        given = draw(inputs, n=n)
        for output, ours, theirs in zip(
            proto.graph.output, compiled(given), reference(proto, given), strict=True
        ):
            assert ours.dtype == theirs.dtype, output.name
            if ours.dtype != np.int32:    # sums are exact, and scales the same
                assert_within_one_step(ours, theirs, output.name)
            else:
                np.testing.assert_array_equal(ours, theirs, output.name)


def assert_within_one_step(ours, theirs, name):
    apart = np.abs(ours.astype(np.float64) - theirs)
    assert apart.max() <= 1, name
    assert np.mean(apart > 0) < 0.1, name    # at ties, or next to them


def test_quantize_rounds_ties_to_even():
    proto, _ = build([Case("QuantizeLinear", x(1, 9), np.array(1, F), S8)])
    given = {"QuantizeLinear_0_in0": np.arange(-4, 5, dtype=F).reshape(1, 9) + F(0.5)}
    ours = compile_plainly(load_onnx(proto))(given)[0]
    np.testing.assert_array_equal(ours, reference(proto, given)[0])


BAD: list[tuple[Case, type[PocketformerError], str]] = [
    (Case("DequantizeLinear", s8("n", 4, 5), scales(3), axis=1), BadModel,
     "has 3 elements for an axis of 4"),
    (Case("DequantizeLinear", s8("n", 4), STEP, U8), BadModel,
     "its zero point is uint8, its integers are int8"),
    (Case("DequantizeLinear", s8("n", 64), scales(8).reshape(2, 4), axis=0, block_size=32),
     UnsupportedOperator, "its weight depends on the input's data"),
    (Case("MatMulInteger", ints("n", 4, dtype="int32"), some("int8", 4, 5)), BadModel,
     "something else than int8 and uint8"),
    (Case("QLinearAdd", u8("n", 4), STEP, U8, domain=M), BadModel, "QLinearAdd"),
    (Case("MatMulNBits", x("n", 64), some("uint8", 5, 2, 15), scales(10), domain=M, N=5, K=64,
          bits=4, block_size=32), BadModel, "its weight has 150 uint8 elements, not 160"),
    (Case("MatMulNBits", x("n", 64), some("uint8", 5, 2, 16), scales(9), domain=M, N=5, K=64,
          bits=4, block_size=32), BadModel, "9 scales for 5 x 2 blocks"),
    (Case("MatMulNBits", x("n", 64), some("uint8", 5, 2, 16), scales(10), domain=M, N=5, K=64,
          bits=3, block_size=32), UnsupportedOperator, "its weights have 3 bits, not 4 or 8"),
]    # fmt: skip


@pytest.mark.parametrize(("case", "error", "text"), BAD, ids=[text for _, _, text in BAD])
def test_what_does_not_fit_together_is_refused_in_a_sentence(case, error, text):
    proto, _ = build([case], opset=21)
    with pytest.raises(error, match=text) as found:
        load_onnx(proto)
    assert "\n" not in str(found.value)
