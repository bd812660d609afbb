"""Convolution, pooling and resizing of 1, 2 or 3 spatial axes."""

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
from pocketformer.compiler.frontends.onnx_ops.elementwise import number
from pocketformer.compiler.frontends.onnx_values import Size, Value

CONVOLUTIONS = {1: R.nn.conv1d, 2: R.nn.conv2d, 3: R.nn.conv3d}
TRANSPOSED = {1: R.nn.conv1d_transpose, 2: R.nn.conv2d_transpose}
MAX_POOLS = {1: R.nn.max_pool1d, 2: R.nn.max_pool2d, 3: R.nn.max_pool3d}
AVERAGE_POOLS = {1: R.nn.avg_pool1d, 2: R.nn.avg_pool2d, 3: R.nn.avg_pool3d}

METHODS = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


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


def _resize(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    data, _, scales, sizes = ([*inputs, None, None, None])[:4]
    shape = list(b.shape(data))
    if "axes" in node.attributes or node.integer("antialias", 0):
        raise UnsupportedOperator("it has axes or antialias")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedOperator("it keeps the aspect ratio")
    target = _resized(b, shape, scales, sizes)
    if b.same_shape(target, shape):
        return data
    if len(shape) not in (3, 4) or not b.same_shape(target[:2], shape[:2]):
        raise UnsupportedOperator(f"it resizes {tuple(shape)} to {tuple(target)}, no image")
    method = node.text("mode", "nearest")
    place = node.text("coordinate_transformation_mode", "half_pixel")
    if method not in METHODS or place == "tf_crop_and_resize":
        raise UnsupportedOperator(f"it has mode {method!r} and places {place!r}")
    rounding = node.text("nearest_mode", "round_prefer_floor")
    if rounding not in ROUNDING:
        raise BadModel(f"it has no nearest_mode {rounding!r}")
    image = b.tensor(data)
    if len(shape) == 3:
        image = b.emit(R.reshape(image, [*shape[:2], 1, shape[2]]))
        target = [*target[:2], 1, target[2]]
    result = R.image.resize2d(
        image, tuple(target[2:]), layout="NCHW", method=METHODS[method],
        coordinate_transformation_mode=place,
        rounding_method=rounding if method == "nearest" else "",
        cubic_alpha=node.number("cubic_coeff_a", -0.75),
        cubic_exclude=node.integer("exclude_outside", 0),
    )    # fmt: skip
    return R.reshape(result, [*target[:2], target[3]]) if len(shape) == 3 else result


def _resized(
    b: Builder, shape: list[Size], scales: Value | None, sizes: Value | None
) -> list[Size]:
    if sizes is not None and b.shape(sizes) != (0,):
        target = b.sizes(sizes, "sizes")
    elif scales is not None:
        factors = b.constant(scales, "scales").astype(float).reshape(-1)
        target = [_scaled(size, float(by)) for size, by in zip(shape, factors, strict=True)]
    else:
        raise BadModel("it has neither scales nor sizes")
    if len(target) != len(shape):
        raise BadModel(f"it has {len(target)} sizes for a tensor of rank {len(shape)}")
    if any(isinstance(size, int) and size < 1 for size in target):
        raise BadModel(f"it resizes to {tuple(target)}")
    b.check_shape(target)
    return target


def _scaled(size: Size, by: float) -> Size:
    if not 1e-4 < by < 1e4:
        raise BadModel(f"it scales by {by}")
    if not isinstance(size, int):
        if by != int(by):
            raise UnsupportedOperator(f"it scales a symbolic axis by {by}; fix that dimension")
        return size * int(by)
    if abs(size * by - round(size * by)) > 1e-4:
        raise UnsupportedOperator(f"it scales {size} by {by}, which is no whole number")
    return round(size * by)


def _batch_norm(b: Builder, node: Node, inputs: list[Value]) -> relax.Expr:
    """x * factor + offset; both are computed here where the statistics are weights."""
    if node.integer("training_mode", 0):
        raise UnsupportedOperator("it is in training mode; export the model with eval()")
    x, (scale, bias, mean, variance) = b.tensor(inputs[0]), inputs[1:5]
    channel = [1, -1, *[1] * (b.rank(x) - 2)]
    epsilon = node.number("epsilon", 1e-5)
    if all(isinstance(value, np.ndarray) for value in (scale, bias, mean, variance)):
        factor = scale / np.sqrt(variance.astype(np.float64) + epsilon)
        offset = bias - mean * factor
        parts = [part.astype(scale.dtype).reshape(channel) for part in (factor, offset)]
        for part, word in zip(parts, ("factor", "offset"), strict=True):
            b.weights.name(part, f"{node.name}.{word}")
        return R.add(R.multiply(x, b.tensor(parts[0])), b.tensor(parts[1]))
    wide = [
        b.tensor(b.reshape(value, [1, b.shape(value)[0], *channel[2:]]))
        for value in (scale, bias, mean, variance)
    ]
    factor = R.divide(wide[0], R.sqrt(R.add(wide[3], number(b, epsilon, b.tensor(variance)))))
    return R.add(R.multiply(R.subtract(x, wide[2]), factor), wide[1])


CONVERTERS: dict[str, Converter] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool(MAX_POOLS, average=False),
    "AveragePool": _pool(AVERAGE_POOLS, average=True),
    "GlobalAveragePool": _global_pool(R.mean),
    "GlobalMaxPool": _global_pool(R.max),
    "Resize": _resize,
    "BatchNormalization": _batch_norm,
}
