"""Models that onnxruntime quantised run in integer kernels and agree with it."""

import re

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import pocketformer as pf
from pocketformer.compiler.frontends.onnx import load_onnx
from tests.compiler.frontends.onnx_cases import Case, build, x
from tests.encoder import encoder, inputs
from tests.numerics.check import reference

BATCH, SEQ = 2, 9


class Batches(CalibrationDataReader):
    def __init__(self):
        self.left = [inputs(BATCH, SEQ) for _ in range(4)]

    def get_next(self):
        return self.left.pop() if self.left else None


def dynamic(source, path):
    quantize_dynamic(source, path, weight_type=QuantType.QUInt8, per_channel=True)


def qdq(source, path):
    quantize_static(
        source, path, Batches(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def qoperator(source, path):
    quantize_static(
        source, path, Batches(), quant_format=QuantFormat.QOperator, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
    )    # fmt: skip


def blocks(source, path):
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=16, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(path)


# What the workloads of kernels of products say. (The dynamic and blockwise forms leave the one
# weight in float32 that the model turns first.)
FORMS = {
    dynamic: {"linear.*_uint8_zero_to_int32": 3},
    qdq: {"linear.*_int8": 6, "batch_matmul.*_int8_to_int8": 2},
    qoperator: {"linear.*_int8": 6, "batch_matmul.*_int8_to_int8": 2},
    blocks: {"linear.*_w4g16": 3},
}


@pytest.mark.parametrize("quantize", FORMS, ids=lambda quantize: quantize.__name__)
def test_a_quantised_model_runs_in_integer_kernels_as_onnxruntime_does(tmp_path, quantize):
    source, path = str(tmp_path / "float.onnx"), str(tmp_path / "model.onnx")
    onnx.save(encoder(BATCH, SEQ), source)
    quantize(source, path)
    bundle = pf.compile(path, "host")
    workloads = [kernel.workload for kernel in bundle.manifest.kernels]
    for words, count in FORMS[quantize].items():
        assert sum(bool(re.match(words, each)) for each in workloads) == count, workloads

    given = inputs(BATCH, SEQ)
    ours = pf.Session(bundle).run(**given)["hidden"]
    theirs = reference(path, given)[0]
    assert np.any(theirs)
    # The largest number is 127 steps of 8 bits from 0 or more. Sums that float32 rounds otherwise
    # can move what lies next to a tie by one, and that a few others.
    step = np.abs(theirs).max() / 127
    apart = np.abs(ours - theirs)
    assert apart.max() <= 2 * step
    assert np.mean(apart) <= step / 4


@pytest.mark.parametrize("zero", [np.uint8(7), np.int8(-5)], ids=lambda zero: str(zero.dtype))
def test_what_is_no_number_becomes_the_least_integer(zero):
    """onnxruntime's calibration makes an infinite scale of a mask that holds -inf: -inf / inf."""
    scales = [np.float32(0.1).reshape(()), np.float32(np.inf).reshape(())]
    proto, _ = build([Case("QuantizeLinear", x(4, 8), scale, zero.reshape(())) for scale in scales])
    names = [value.name for value in proto.graph.input]
    drawn = np.random.default_rng().uniform(-30, 30, (4, 8)).astype(np.float32)
    drawn[:, :3] = [np.nan, np.inf, -np.inf]
    given = dict.fromkeys(names, drawn)
    ours = pf.Session(pf.compile(proto, "host")).run(**given).values()
    limits = np.iinfo(zero.dtype)
    for scale, found, expected in zip(scales, ours, reference(proto, given), strict=True):
        assert found.dtype == expected.dtype
        with np.errstate(invalid="ignore"):
            steps = drawn / scale
        apart = np.abs(found.astype(int) - expected)
        assert np.all(apart[~np.isnan(steps)] <= 1)
        assert np.all(found[np.isnan(steps)] == limits.min)
        assert np.all(found[steps == np.inf] == limits.max)
        assert np.all(found[steps == 0] == zero)


def few(low, *shape):
    """A constant of int4 or uint4: from `low`, all that 4 bits hold."""
    drawn = np.random.default_rng().integers(low, low + 16, shape)
    drawn.flat[:2] = low, low + 15
    return drawn.astype(ml_dtypes.int4 if low else ml_dtypes.uint4)


def scales(*shape):
    return np.random.default_rng().uniform(0.01, 0.1, shape).astype(np.float32)


def in_bytes(*shape):
    return np.random.default_rng().integers(0, 256, shape).astype(np.uint8)


def product(k, bits, count, size):
    return Case(
        "MatMulNBits", x(3, k), in_bytes(5, count, size), scales(5 * count),
        domain="com.microsoft", N=5, K=k, bits=bits, block_size=32,
    )    # fmt: skip


DENSE = [
    (product(64, 8, 2, 32), "8 bits in blocks of 32"),
    (product(40, 4, 2, 16), "blocks of 32 do not divide 40 rows"),
    (Case("DequantizeLinear", few(0, 64, 5), scales(2, 5), np.zeros((2, 5), ml_dtypes.uint4),
          axis=0, block_size=32), "not of 4 bits"),
    (Case("DequantizeLinear", few(-8, 40, 5), scales(2, 5), axis=0, block_size=32),
     "blocks of 32 do not divide 40 rows"),
]    # fmt: skip


@pytest.mark.parametrize(("case", "reason"), DENSE, ids=[
    "8 bits", "uneven product", "zero points", "uneven weight"])
def test_a_weight_that_becomes_float32_is_explained(case, reason):
    proto, _ = build([case], opset=21)
    notes = [operator.note for operator in load_onnx(proto).operators]
    assert len(notes) == 1
    assert notes[0].startswith("onnx: the weight becomes float32: ")
    assert reason in notes[0]


def test_what_the_importer_says_of_a_weight_is_in_the_manifest():
    proto, _ = build([product(40, 4, 2, 16)], opset=21)
    records = pf.compile(proto, "host").manifest.operators
    assert [record.note for record in records] == [
        "onnx: the weight becomes float32: blocks of 32 do not divide 40 rows"]
    assert records[0].kernel
