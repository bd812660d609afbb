"""Which linear layers are equalised with the one before."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from pocketformer.compiler.quantization.decide import decide
from pocketformer.compiler.recipe import Int8
from tests.compiler.test_calibrate import calibrated

SIZE = 32
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
two (float[1, 6, 32] x) => (float[2, 3, 32] y) {
    first = MatMul(x, w1)
    between = Relu(first)
    sizes = Constant<value = int64[3] {2, 3, 32}>()
    turned = Reshape(between, sizes)
    y = MatMul(turned, w2)
}
"""


def normal(*shape):
    return np.random.default_rng().normal(size=shape).astype("float32")


def found(between, shape=(2, 3, SIZE), **options):
    """The layers of two products with `between` and a reshape between them; what these compute."""
    sizes = ", ".join(map(str, shape))
    text = TEXT.replace("{2, 3, 32}", f"{{{sizes}}}").replace("[2, 3, 32]", str([*shape[:2], SIZE]))
    proto = parser.parse_model(text.replace("Relu", between))
    for name, rows in (("w1", SIZE), ("w2", shape[-1])):
        weight = normal(rows, SIZE) * np.exp(normal(SIZE))
        proto.graph.initializer.append(numpy_helper.from_array(weight, name))
    data = [{"x": normal(1, 6, SIZE)} for _ in range(3)]
    recipe = Int8(calibration=data, equalize=True, **options)
    seen = calibrated(proto, None, recipe=recipe)
    return seen.layers, decide(seen.layers, seen.statistics, lambda _: recipe).layers


@pytest.mark.parametrize("between", ["Relu", "Identity"])
def test_layers_are_equalized_through_a_reshape(between, caplog):
    (first, second), numbers = found(between)
    assert second.before == first.key
    factor = numbers[second.key].x.factor
    ranges = np.abs(first.weight).max(axis=0) * factor, np.abs(second.weight).max(axis=1) / factor
    np.testing.assert_allclose(ranges[0] / ranges[1], ranges[0][0] / ranges[1][0], rtol=1e-4)
    assert "equalize" not in caplog.text


@pytest.mark.parametrize(
    ("between", "options"),
    [
        ("Tanh", {}), ("Relu", {"activations": "token"}),
        ("Relu", {"shape": (1, 12, 16)}), ("Relu", {"shape": (1, 3, 64)}),
    ],
    ids=["tanh", "token", "narrower", "wider"],
)
def test_where_no_layers_can_be_equalized_a_note_tells(between, options, caplog):
    layers, numbers = found(between, **options)
    assert {layer.key for layer in layers} == set(numbers)
    assert "equalize changes nothing: no linear layer in int8" in caplog.text
