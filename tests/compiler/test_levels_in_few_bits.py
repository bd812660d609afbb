"""The levels of a target read weights of 4 and 8 bits in one order: a bundle has them once."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import pocketformer as pf
from pocketformer import targets
from pocketformer.compiler.compatibility import choose_level
from tests.numerics.tolerance import TOLERANCE

FLOAT32 = "weight = Identity(numbers)"
EIGHT_BITS = "weight = DequantizeLinear<axis = 1>(numbers, scales)"
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
layer (float[8, 64] x) => (float[8, 96] out) {
    WEIGHT
    out = MatMul(x, weight)
}
"""
BITS = pytest.mark.parametrize("bits", [4, 8])


def layer(bits: int) -> onnx.ModelProto:
    """A linear layer, of 4 bits when compiled by the recipe, of 8 by itself."""
    proto = parser.parse_model(TEXT.replace("WEIGHT", FLOAT32 if bits == 4 else EIGHT_BITS))
    rng = np.random.default_rng()
    arrays = {"numbers": rng.standard_normal((64, 96), "float32")} if bits == 4 else {
        "numbers": rng.integers(-127, 128, (64, 96), "int8"),
        "scales": rng.uniform(0.01, 0.02, 96).astype("float32")}
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def compiled(proto: onnx.ModelProto, bits: int, target: pf.Target) -> pf.Bundle:
    recipe = pf.Int4Weights(group=32) if bits == 4 else None
    bundle = pf.compile(proto, target, recipe=recipe, records=())
    assert all(f"_w{bits}" in record.workload for record in bundle.manifest.kernels)
    return bundle


@BITS
@pytest.mark.parametrize("name", ["x86_64-linux", "arm64-android"])
def test_all_levels_together_have_no_more_weights_than_each(name, bits):
    proto, target = layer(bits), targets.load(name)
    manifest = compiled(proto, bits, target).manifest
    assert len(manifest.levels) > 1
    for level in target.variants:
        if level.level in {kept.name for kept in manifest.levels}:
            assert compiled(proto, bits, level).manifest.weights.bytes == manifest.weights.bytes


@BITS
def test_levels_compute_the_same_from_what_they_share(bits, monkeypatch):
    bundle = compiled(layer(bits), bits, targets.load("x86_64-linux"))
    given = {"x": np.random.default_rng().standard_normal((8, 64), "float32")}
    found = []
    for level in ("base", choose_level(bundle.manifest)):
        monkeypatch.setenv("POCKETFORMER_LEVEL", level)
        found.extend(pf.Session(bundle).run(given).values())
    largest = np.abs(found[0]).max()
    assert largest > 0
    np.testing.assert_allclose(*found, rtol=0, atol=TOLERANCE["float32"] * largest)
