"""A Transformer encoder of one layer as ONNX, small enough to compile in every test."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

HIDDEN, HEADS, WIDE, VOCABULARY = 32, 4, 64, 50
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
encoder (int64[BATCH, SEQ] ids, int64[BATCH, SEQ] keep) => (float[BATCH, SEQ, 32] hidden) {
    embedded = Gather(table, ids)
    x = LayerNormalization<axis = -1, epsilon = 0.00001>(embedded, gamma, beta)
    kept = Cast<to = 1>(keep)
    hidden_keys = Sub(one, kept)
    low = Mul(hidden_keys, lowest)
    mask = Unsqueeze(low, middle)
    sizes = Constant<value = int64[4] {0, 0, 4, 8}>()
    query_product = MatMul(x, wq)
    query_sum = Add(query_product, bq)
    query_split = Reshape(query_sum, sizes)
    query = Transpose<perm = [0, 2, 1, 3]>(query_split)
    key_product = MatMul(x, wk)
    key_split = Reshape(key_product, sizes)
    key = Transpose<perm = [0, 2, 3, 1]>(key_split)
    value_product = MatMul(x, wv)
    value_split = Reshape(value_product, sizes)
    value = Transpose<perm = [0, 2, 1, 3]>(value_split)
    products = MatMul(query, key)
    scores = Mul(products, scale)
    masked = Add(scores, mask)
    weights = Softmax<axis = -1>(masked)
    mixed = MatMul(weights, value)
    back = Transpose<perm = [0, 2, 1, 3]>(mixed)
    merged_sizes = Constant<value = int64[3] {0, 0, 32}>()
    merged = Reshape(back, merged_sizes)
    out_product = MatMul(merged, wo)
    attended = Add(out_product, x)
    y = LayerNormalization<axis = -1, epsilon = 0.00001>(attended, gamma, beta)
    turned = Transpose<perm = [1, 0]>(w1)
    wide_product = MatMul(y, turned)
    wide = Add(wide_product, b1)
    divided = Div(wide, root_two)
    erf = Erf(divided)
    shifted = Add(erf, one)
    gated = Mul(wide, shifted)
    activated = Mul(gated, half)
    narrow = MatMul(activated, w2)
    hidden = Add(narrow, y)
}
"""


def encoder(batch: int | str = 1, seq: int | str = "seq") -> onnx.ModelProto:
    """The encoder with fresh random weights; a size is a number or the name of a dimension."""
    proto = parser.parse_model(TEXT.replace("BATCH", str(batch)).replace("SEQ", str(seq)))
    for name, node in zip(_names(proto), proto.graph.node, strict=True):
        node.name = name
    rng = np.random.default_rng()
    square = (HIDDEN, HIDDEN)
    arrays = {
        "table": rng.standard_normal((VOCABULARY, HIDDEN)),
        "gamma": rng.uniform(0.5, 1.5, HIDDEN),
        "beta": rng.standard_normal(HIDDEN),
        **{name: rng.standard_normal(square) / HIDDEN**0.5 for name in ("wq", "wk", "wv", "wo")},
        "bq": rng.standard_normal(HIDDEN),
        "w1": rng.standard_normal((WIDE, HIDDEN)) / HIDDEN**0.5,
        "b1": rng.standard_normal(WIDE),
        "w2": rng.standard_normal((WIDE, HIDDEN)) / WIDE**0.5,
        "one": np.array(1.0),
        "half": np.array(0.5),
        "lowest": np.array(-3.4028234663852886e38),
        "root_two": np.array(2**0.5),
        "scale": np.array(8**-0.5),
    }
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array.astype("float32"), name))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "middle"))
    return proto


def inputs(batch: int, seq: int) -> dict[str, np.ndarray]:
    """Fresh token numbers, and a mask that hides the last third of every sequence but the first."""
    rng = np.random.default_rng()
    keep = np.ones((batch, seq), "int64")
    keep[1:, seq - seq // 3 :] = 0
    return {"ids": rng.integers(0, VOCABULARY, (batch, seq)), "keep": keep}


def _names(proto: onnx.ModelProto) -> list[str]:
    return [f"{node.output[0]}_{node.op_type}" for node in proto.graph.node]
