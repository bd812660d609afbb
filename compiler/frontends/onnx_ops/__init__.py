"""One converter for each ONNX operator, by name, with the domain in front unless it is ONNX's."""

from pocketformer.compiler.frontends.onnx_builder import Converter
from pocketformer.compiler.frontends.onnx_ops import (
    attention,
    convolution,
    creation,
    elementwise,
    indexing,
    normalization,
    reduction,
    shapes,
    slices,
)

CONVERTERS: dict[str, Converter] = {
    **shapes.CONVERTERS,
    **elementwise.CONVERTERS,
    **slices.CONVERTERS,
    **indexing.CONVERTERS,
    **creation.CONVERTERS,
    **reduction.CONVERTERS,
    **normalization.CONVERTERS,
    **convolution.CONVERTERS,
    **attention.CONVERTERS,
}
