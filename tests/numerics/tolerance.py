"""The one table of how far results may be from the reference, relative to its largest value."""

TOLERANCE = {
    "float64": 1e-6,     # onnxruntime computes some of these in float32
    "float32": 1e-4,
    "float32 kernel": 5e-6,  # a single kernel against float64
    "bfloat16 activation": 3e-4,  # of a layer whose factors are rounded by ten times as much
    "float16": 2e-2,
    "float16 kernel": 4e-3,  # rounded factors, sums of up to 128 products in float16
    "bfloat16": 5e-2,
    "bfloat16 kernel": 4e-3,  # of attention, whose weights are rounded after a softmax
    "int8 kernel": 1.5e-2,  # of attention, whose weights have 255 steps; of the values
}    # fmt: skip
# All other dtypes have to agree exactly.
