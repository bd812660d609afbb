"""Convolution and pooling over 1, 2 or 3 spatial axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import Size, Value

CONVOLUTIONS = {1: R.nn.conv1d, 2: R.nn.conv2d, 3: R.nn.conv3d}
TRANSPOSED = {1: R.nn.conv1d_transpose, 2: R.nn.conv2d_transpose}
MAX_POOLS = {1: R.nn.max_pool1d, 2: R.nn.max_pool2d, 3: R.nn.max_pool3d}
AVERAGE_POOLS = {1: R.nn.avg_pool1d, 2: R.nn.avg_pool2d, 3: R.nn.avg_pool3d}


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the spatial axes; `pads` are all begins and then all ends."""

    strides: list[int]
    dilations: list[int]
    pads: list[int]


def _window(
    b: Builder, node: Node, shape: Sequence[Size], kernel: Sequence[int]
) -> Window:
    count = len(kernel)
    strides = node.integers("strides", [1] * count)
    dilations = node.integers("dilations", [1] * count)
    if not len(strides) == len(dilations) == count:
        raise BadModel(f"its strides or dilations are not {count} numbers")
    for word, numbers in (("kernel", kernel), ("strides", strides), ("dilations", dilations)):
        if any(not 0 < value < 1 << 16 for value in numbers):
            raise BadModel(f"its {word} are {list(numbers)}")
    pads = _pads(node, shape, kernel, strides, dilations)
    if len(pads) != 2 * count or any(not 0 <= pad < 1 << 16 for pad in pads):
        raise BadModel(f"its pads are {pads}")
    for axis in range(count):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        room = shape[axis] + pads[axis] + pads[count + axis]
        if isinstance(room, int) and room < reach:
            raise BadModel(f"its kernel reaches over {reach} of an axis of {room}")
    return Window(strides, dilations, pads)


def _pads(
    node: Node,
    shape: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    mode = node.text("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID", ""):
        zeros = [0] * (2 * len(kernel))
        return zeros if mode == "VALID" else node.integers("pads", zeros)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise BadModel(f"it has no auto_pad {mode!r}")
    begins, ends = [], []
    for size, width, stride, dilation in zip(shape, kernel, strides, dilations, strict=True):
        if not isinstance(size, int) and stride != 1:
            raise UnsupportedOperator("it pads a symbolic axis automatically; fix that dimension")
        steps = -(-size // stride) if isinstance(size, int) else 1
        left = size if isinstance(size, int) else 1
        total = max(0, (steps - 1) * stride + dilation * (width - 1) + 1 - left)
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    return begins + ends


def _spatial(b: Builder, value: Value) -> tuple[Size, ...]:
    shape = b.shape(value)
    if not 3 <= len(shape) <= 5:
        raise BadModel(f"its input has rank {len(shape)}, it needs 3 to 5")
    return shape[2:]


def _kernel(b: Builder, node: Node, weight: Value) -> list[int]:
    kernel = list(b.shape(weight)[2:])
    if node.integers("kernel_shape", kernel) != kernel:
        raise BadModel("its kernel_shape is not that of its weight")
    return kernel


def _conv(b: Builder, node: Node, inputs: list[Value | None]) -> relax.Expr:
    data, weight = inputs[0], inputs[1]
    spatial, groups = _spatial(b, data), node.integer("group", 1)
    if b.rank(weight) != b.rank(data):
        raise BadModel(f"its weight has rank {b.rank(weight)}, it needs {b.rank(data)}")
    channels, (features, per_group) = b.shape(data)[1], b.shape(weight)[:2]
    if groups < 1 or features % groups or channels != per_group * groups:
        raise BadModel(f"{groups} groups of {per_group} channels do not fit {channels} channels")
    window = _window(b, node, spatial, _kernel(b, node, weight))
    result = CONVOLUTIONS[len(spatial)](
        b.tensor(data), b.tensor(weight), window.strides, window.pads, window.dilations, groups
    )
    return _with_bias(b, result, inputs, len(spatial))


def _with_bias(b: Builder, result: relax.Expr, inputs: list[Value | None], axes: int) -> Any:
    if len(inputs) < 3 or inputs[2] is None:
        return result
    result, bias = b.emit(result), inputs[2]
    if b.rank(bias) != 1 or b.shape(bias)[0] != b.shape(result)[1]:
        raise BadModel(f"its bias has the shape {b.shape(bias)}")
    wide = b.reshape(bias, [1, b.shape(bias)[0], *[1] * axes])
    return R.add(result, b.tensor(wide) if isinstance(wide, np.ndarray) else wide)


def _conv_transpose(b: Builder, node: Node, inputs: list[Value | None]) -> relax.Expr:
    data, weight = inputs[0], inputs[1]
    spatial, groups = _spatial(b, data), node.integer("group", 1)
    if len(spatial) not in TRANSPOSED or "output_shape" in node.attributes:
        raise UnsupportedOperator("it has 3 spatial axes or an output_shape")
    channels = b.shape(data)[1]
    if b.rank(weight) != b.rank(data) or groups < 1 or b.shape(weight)[0] != channels:
        raise BadModel(f"its weight {b.shape(weight)} does not fit {channels} channels")
    if channels % groups or node.text("auto_pad", "NOTSET") != "NOTSET":
        raise UnsupportedOperator("its groups do not divide its channels, or it pads automatically")
    kernel = _kernel(b, node, weight)
    extra = node.integers("output_padding", [0] * len(kernel))
    wide = [b.solver.simplify(size + 2 * k) for size, k in zip(spatial, kernel, strict=True)]
    window = _window(b, node, wide, kernel)
    if any(not 0 <= more < stride for more, stride in zip(extra, window.strides, strict=True)):
        raise BadModel(f"its output_padding is {extra}")
    result = TRANSPOSED[len(spatial)](
        b.tensor(data), b.tensor(weight), window.strides, window.pads, extra,
        window.dilations, groups,
    )    # fmt: skip
    return _with_bias(b, result, inputs, len(spatial))


def _pool(make: dict[int, Callable[..., relax.Expr]], average: bool) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
        if len(node.outputs) > 1 and node.outputs[1]:
            raise UnsupportedOperator("it also returns the indices of the maxima")
        spatial, kernel = _spatial(b, inputs[0]), node.integers("kernel_shape")
        if len(kernel) != len(spatial):
            raise BadModel(f"its kernel_shape is {kernel}, it needs {len(spatial)} numbers")
        window = _window(b, node, spatial, kernel)
        with_pads = [bool(node.integer("count_include_pad", 0))] if average else []
        return make[len(spatial)](
            b.tensor(inputs[0]), kernel, window.strides, window.pads, window.dilations,
            bool(node.integer("ceil_mode", 0)), *with_pads,
        )    # fmt: skip

    return run


def _global_pool(make: Callable[..., relax.Expr]) -> Converter:
    def run(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
        x = b.tensor(inputs[0])
        return make(x, list(range(2, b.rank(x))), True) if b.rank(x) > 2 else x

    return run


CONVERTERS: dict[str, Converter] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool(MAX_POOLS, average=False),
    "AveragePool": _pool(AVERAGE_POOLS, average=True),
    "GlobalAveragePool": _global_pool(R.mean),
    "GlobalMaxPool": _global_pool(R.max),
}
