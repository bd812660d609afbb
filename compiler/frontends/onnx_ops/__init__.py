"""One converter for each ONNX operator, by name, with the domain in front unless it is ONNX's."""

from pocketformer.compiler.frontends.onnx_builder import Converter
from pocketformer.compiler.frontends.onnx_ops import (
    activations,
    attention,
    convolution,
    creation,
    elementwise,
    fused,
    images,
    indexing,
    normalization,
    packed_weights,
    padding,
    quantized,
    quantized_elementwise,
    quantized_products,
    reduction,
    shapes,
    slices,
)

CONVERTERS: dict[str, Converter] = {
    **shapes.CONVERTERS,
    **padding.CONVERTERS,
    **elementwise.CONVERTERS,
    **activations.CONVERTERS,
    **slices.CONVERTERS,
    **indexing.CONVERTERS,
    **creation.CONVERTERS,
    **reduction.CONVERTERS,
    **normalization.CONVERTERS,
    **convolution.CONVERTERS,
    **images.CONVERTERS,
    **attention.CONVERTERS,
    **fused.CONVERTERS,
    **quantized.CONVERTERS,
    **quantized_products.CONVERTERS,
    **quantized_elementwise.CONVERTERS,
    **packed_weights.CONVERTERS,
}
