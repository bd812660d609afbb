"""Products with dequantised weights become kernels of integers, whatever the model's form."""

import logging

import numpy as np
import pytest
from tvm import relax
from tvm.relax import op

from pocketformer.compiler.folding import Folding
from pocketformer.passes.fold_quantization import FoldQuantization
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.fuse_quantized import FuseQuantized
from pocketformer.schedules.workloads import MOST_BYTES, MOST_PRODUCTS
from tests.passes.graphs import composites, module, random, run

M, K, N = 40, 16, 8    # so many rows that relu never leaves zeros only
STEPS = np.linspace(0.01, 0.02, N, dtype="float32")


def const(value, dtype="float32"):
    return relax.const(np.array(value, dtype))


SCALE, ZERO, NONE = const(0.03), const(5, "int8"), const(0, "int8")


def short(w):
    """A weight's parameter as integers."""
    return op.astype(op.clip(op.multiply(w, const(40)), -127, 127), "int8")


def rounded(x, dtype="int8", zero=ZERO, scale=SCALE):
    return op.dequantize(op.quantize(x, scale, zero, -1, dtype), scale, zero)


def steps(*shape):
    """Numbers of 127 steps of SCALE at most, and of that many; none is near the middle of two."""
    rng = np.random.default_rng()
    found = rng.integers(-127, 128, shape) + rng.uniform(-0.3, 0.3, shape)
    found.flat[0] = 127
    return (0.03 * np.clip(found, -127, 127)).astype("float32")


def fused(body, *, weights=None, rows=K, atol=1e-4):
    """The composites of what becomes of `body`, which computes the same."""
    weights = weights or {"w": (rows, N), "b": (N,)}
    before = module({"x": (M, rows)}, weights, body)
    arrays = [steps(M, rows), *random(*weights.values())]
    folding = Folding(dict(zip(weights, arrays[1:], strict=True)))
    after = FuseQuantized(folding.evaluate)(FuseLinear()(FoldQuantization()(before)))
    for ours, theirs in zip(run(after, *arrays), run(before, *arrays), strict=True):
        assert np.any(theirs)
        np.testing.assert_allclose(ours, theirs, atol=atol)
    return composites(after)


def test_a_linear_layer_with_what_follows_multiplies_integers():
    def body(x, w, b):
        weight = op.dequantize(short(w), relax.const(STEPS), NONE, axis=1)
        return op.nn.relu(op.add(op.matmul(rounded(x), weight), b))

    (_, quantize), (name, options) = fused(body)
    assert quantize == {"dtype": "int8"}
    assert name == "quantized_linear"
    assert options["zero"]
    assert options["bias"]
    assert options["activation"] == "relu"
    assert not options["scaled"]


def test_a_range_that_is_measured_at_run_time_scales_the_product():
    def body(x, w, b):
        scale = op.divide(op.max(op.abs(x)), const(127))
        zero = op.astype(op.round(scale), "uint8")
        weight = op.dequantize(short(w), const(0.02), NONE)
        return op.add(op.matmul(rounded(x, "uint8", zero, scale), weight), b)

    name, options = fused(body)[-1]
    assert name == "quantized_linear"
    assert options["scaled"]
    assert options["zero"]


def test_weights_beside_each_other_stay_integers():
    def body(x, w, v):
        weights = [
            op.dequantize(short(w), relax.const(STEPS), NONE, axis=1),
            op.dequantize(short(v), const(0.02), const(-9, "int8")),
        ]
        return op.matmul(rounded(x), op.concat(weights, axis=1))

    assert fused(body, weights={"w": (K, N), "v": (K, N)})[-1][0] == "quantized_linear"


def test_a_turned_weight_stays_integers():
    def body(x, w):
        weight = op.dequantize(short(w), relax.const(STEPS), NONE, axis=0)
        return op.matmul(rounded(x), op.permute_dims(weight, [1, 0]))

    assert fused(body, weights={"w": (N, K)})[-1][0] == "quantized_linear"


def test_a_zero_of_the_weight_is_taken_off_exact_sums():
    def body(x, w, b):
        weight = op.dequantize(short(w), const(0.02), const(-90, "int8"))
        return op.nn.relu(op.add(op.matmul(rounded(x), weight), b))

    name, options = fused(body)[-1]
    assert name == "quantized_linear"
    assert options["out_dtype"] == "int32"


def test_sums_of_integers_are_an_integer_kernel():
    def body(x, w):
        q = op.astype(op.quantize(x, SCALE, ZERO, -1, "int8"), "int32")
        weight = op.subtract(op.astype(short(w), "int32"), op.astype(const(3, "int8"), "int32"))
        left = op.subtract(q, op.astype(ZERO, "int32"))
        return op.matmul(left, weight, out_dtype="int32")

    name, options = fused(body, weights={"w": (K, N)})[-1]
    assert name == "quantized_linear"
    assert options == {"zero": True, "out_dtype": "int32"}


def test_weights_alone_are_integers_where_x_is_none():
    def body(x, w, b):
        weight = op.dequantize(short(w), relax.const(STEPS), NONE, axis=1)
        return op.add(op.matmul(x, weight), b)

    ((name, options),) = fused(body)
    assert name == "weight_only_linear"
    assert options["bits"] == 8


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize(("most", "zero"), [(MOST_PRODUCTS, 0), (MOST_BYTES, -90)])
def test_a_linear_whose_sums_may_not_fit_in_int32_stays_float32(most, zero, over):
    rows = most + over
    before = module({"x": (3, rows)}, {"w": (rows, 1)}, lambda x, w: op.matmul(
        rounded(x), op.dequantize(short(w), const(0.02), const(zero, "int8"))))
    folding = Folding({"w": random((rows, 1))[0]})
    after = FuseQuantized(folding.evaluate)(FuseLinear()(FoldQuantization()(before)))
    assert ("linear" in dict(composites(after))) == bool(over)


def in_groups(groups, axis=1, turned=False, rows=K, most=7):
    """A linear whose weight has scales for `groups` of rows, or else of what `axis` says."""
    scales = np.random.default_rng().uniform(0.1, 0.2, (groups, N)).astype("float32")

    def body(x, w, b):
        few = op.astype(op.clip(op.multiply(w, const(99)), -most - 1, most), "int8")
        parts = op.reshape(op.astype(few, "float32"), (groups, rows // groups, N))
        factors = [parts, op.expand_dims(relax.const(scales), axis)]
        weight = op.multiply(*(factors[::-1] if turned else factors))
        return op.add(op.matmul(x, op.reshape(weight, (rows, N))), b)

    return body


@pytest.mark.parametrize("turned", [False, True], ids=["weight first", "scales first"])
def test_weights_in_blocks_have_four_bits(turned):
    ((name, options),) = fused(in_groups(2, turned=turned))
    assert name == "weight_only_linear"
    assert (options["bits"], options["group"]) == (4, K // 2)


def test_scales_of_places_within_a_group_are_not_those_of_groups():
    ((name, _),) = fused(in_groups(8, axis=0, rows=64), rows=64)
    assert name == "linear"


def test_weights_in_blocks_of_eight_bits_stay_float32(caplog):
    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        found = fused(in_groups(2, most=127))
    assert [name for name, _ in found] == ["linear"]
    assert "the integers of the weight reach from -128 to 127, 4 bits hold -8 to 7" in caplog.text


def turned_in_groups(w):
    """A weight [n, k] of 4 bits with scales for groups of a row, as torch has them."""
    few = op.permute_dims(op.astype(op.clip(op.multiply(w, const(3)), -8, 7), "int8"))
    parts = op.reshape(op.astype(few, "float32"), (N, 2, K // 2))
    return op.reshape(op.multiply(parts, const(np.full((N, 2, 1), 0.1))), (N, K))


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (lambda w: op.dequantize(short(w), relax.const(np.linspace(1, 2, K, dtype="float32")),
                                 NONE, axis=0), "the weight has a scale for each row"),
        (lambda w: op.dequantize(short(w), const(0.02), const(-90, "int8")),
         "the weight has a zero point, x is no integers"),
        (lambda w: op.permute_dims(turned_in_groups(w)),
         "no kernel reads them through permute_dims"),
        (lambda w: op.concat([op.dequantize(short(w), const(0.02), NONE), w], axis=1),
         "no kernel reads them through concat"),
    ],
    ids=["rows", "zero", "turned groups", "partly float32"],
)
def test_what_no_kernel_multiplies_stays_float32(caplog, weight, reason):
    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        found = fused(lambda x, w, b: op.matmul(x, weight(w)))
    assert [name for name, _ in found] == ["linear"]
    assert reason in caplog.text


def test_a_product_of_two_activations_multiplies_integers():
    def body(x, w, b):
        turned = op.permute_dims(rounded(x, "uint8", const(9, "uint8")))
        return op.matmul(rounded(x), turned)

    assert fused(body, atol=1e-3)[-1] == ("quantized_matmul", {})


def test_sums_of_two_activations_are_an_integer_kernel():
    def body(x, w, b):
        q = op.quantize(x, SCALE, ZERO, -1, "int8")
        left = op.subtract(op.astype(q, "int32"), op.astype(ZERO, "int32"))
        return op.matmul(left, op.astype(op.permute_dims(q), "int32"), out_dtype="int32")

    assert fused(body)[-1] == ("quantized_matmul", {"out_dtype": "int32"})


def test_a_right_side_that_all_batches_share_has_none():
    def body(x, w, b):
        right = op.reshape(op.permute_dims(rounded(x)), (1, K, M))
        return op.matmul(op.reshape(rounded(x), (M // 4, 4, K)), right)

    assert fused(body, atol=1e-3)[-1] == ("quantized_matmul", {})


def test_activations_that_are_repeated_for_batches_stay_float32(caplog):
    def body(x, w, b):
        left = op.reshape(rounded(x), (1, M, K))
        return op.matmul(left, op.reshape(rounded(x), (M, K, 1)))

    with caplog.at_level(logging.INFO, logger="pocketformer.passes"):
        found = fused(body)
    assert "quantized_matmul" not in dict(found)
    assert "one side is repeated for batches of the other" in caplog.text


def test_what_is_dequantised_to_float16_stays_float16():
    def body(x, w, b):
        q = op.quantize(x, SCALE, ZERO, -1, "int8")
        half = op.dequantize(q, const(0.03, "float16"), ZERO, -1, "float16")
        return op.astype(op.matmul(half, op.permute_dims(half)), "float32")

    assert "quantized_matmul" not in dict(fused(body))


@pytest.mark.parametrize("vectors", [False, True], ids=["a scale for each column", "vectors"])
def test_a_scaled_sum_of_two_activations_stays_an_integer_kernel(vectors):
    def body(x, w, b):
        q = op.quantize(x, SCALE, ZERO, -1, "int8")
        left, right = op.astype(q, "int32"), op.astype(op.permute_dims(q), "int32")
        if vectors:
            left, right = (op.reshape(op.take(side, relax.const([0], "int64"), axis), (K,))
                           for side, axis in ((left, 0), (right, 1)))
        sums = op.astype(op.matmul(left, right, out_dtype="int32"), "float32")
        steps = const(0.01) if vectors else const(np.linspace(0.01, 0.02, M))
        return op.multiply(sums, steps)

    found = dict(fused(body, atol=1e-2))
    assert found.get("quantized_matmul") == (None if vectors else {"out_dtype": "int32"})
