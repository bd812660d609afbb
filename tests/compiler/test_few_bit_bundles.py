"""Models in few bits from end to end: what is stored between products, and that answers hold."""

import numpy as np
import pytest

import pocketformer as pf
from pocketformer.compiler.assemble import fuse
from pocketformer.compiler.build import calibrated_layers, decide_layers, read_model
from pocketformer.passes.precision import precision_of_layer
from pocketformer.targets import load
from tests.encoder import VOCABULARY, encoder

SEQ = 24


def batches(count):
    rng = np.random.default_rng()
    for _ in range(count):
        keep = np.ones((1, SEQ), "int64")
        keep[:, SEQ - rng.integers(1, 8) :] = 0
        yield {"ids": rng.integers(0, VOCABULARY, (1, SEQ)), "keep": keep}


@pytest.fixture(scope="module")
def model():
    """The encoder, an input, and what float32 makes of it."""
    proto = encoder(1, SEQ)
    [given] = batches(1)
    [expected] = pf.Session(pf.compile(proto, "host")).run(given).values()
    return proto, given, expected


def check_words(proto, recipe, bundle):
    """The accuracy report and the bundle's operators name what a layer computes with alike."""
    fused = fuse(read_model(proto, recipe), load("host"))
    layers = calibrated_layers(fused, recipe)
    numbers = decide_layers(layers, recipe).layers
    found = {record.name: record.precision for record in bundle.manifest.operators}
    expected = {layer.name: precision_of_layer(numbers.get(layer.key)) for layer in layers.layers}
    assert expected == {name: found[name] for name in expected}
    assert len(set(expected.values())) > 1


def stored(bundle):
    """Of the kernels by templates, in order: what they are, and what they store."""
    words = ("gelu", "residual", "to_int8", "to_rows", "to_bfloat16")
    texts = [record.workload for record in bundle.manifest.kernels if record.workload]
    return [
        " ".join([text.split("_")[0], *(word for word in words if word in text)])
        for text in texts
    ]


def without_template(bundle):
    """How many kernels the compiler made of operators that no template computes."""
    return sum(not record.workload for record in bundle.manifest.kernels)


def cosine(left, right):
    return (left * right).sum() / np.sqrt((left**2).sum() * (right**2).sum())


STATIC = [
    "lookup", "layernorm to_int8", "linear to_int8", "attention to_int8", "linear residual",
    "layernorm to_int8", "linear gelu to_int8", "linear residual",
]


def test_between_int8_products_only_the_residual_stream_is_float32(model):
    proto, given, expected = model
    recipe = pf.Int8(calibration=list(batches(8)))
    bundle = pf.compile(proto, "host", recipe=recipe)
    assert stored(bundle) == STATIC
    assert without_template(bundle) == 1    # the mask
    check_words(proto, recipe, bundle)
    [found] = pf.Session(bundle).run(given).values()
    assert cosine(found, expected) > 0.99


def test_norms_quantise_rows_where_nothing_is_known_before(model):
    proto, given, expected = model
    bundle = pf.compile(proto, "host", recipe="int8-dynamic")
    assert stored(bundle).count("layernorm to_rows") == 2
    assert without_template(bundle) == 1
    precisions = {record.name: record.precision for record in bundle.manifest.operators}
    assert precisions["wide_product_MatMul"] == "int8 (by token)"
    assert precisions["weights_Softmax"] == "int8"
    check_words(proto, pf.Int8(dynamic=True), bundle)
    [found] = pf.Session(bundle).run(given).values()
    assert cosine(found, expected) > 0.99


def test_bfloat16_is_stored_where_products_alone_read(model):
    proto, given, expected = model
    bundle = pf.compile(proto, "host", recipe="bfloat16")
    assert stored(bundle) == [
        "layernorm", "linear to_bfloat16", "attention to_bfloat16", "linear residual",
        "layernorm", "linear gelu to_bfloat16", "linear residual"]
    [found] = pf.Session(bundle).run(given).values()
    assert cosine(found, expected) > 0.9999
