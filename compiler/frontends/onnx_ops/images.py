"""Operators that change the size of an image: Resize, DepthToSpace and SpaceToDepth."""

from __future__ import annotations

from typing import Any

from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_values import Size, Value

METHODS = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


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


def _depth_to_space(b: Builder, node: Node, inputs: list[Value]) -> Any:
    n, c, h, w = _image(b, inputs[0])
    block = _block(node)
    depth = b.solver.simplify(c // (block * block))
    if node.text("mode", "DCR") == "DCR":
        split, order = [n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]
    else:
        split, order = [n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]
    parted = R.permute_dims(b.reshape(b.tensor(inputs[0]), split), order)
    return R.reshape(parted, [n, depth, h * block, w * block])


def _space_to_depth(b: Builder, node: Node, inputs: list[Value]) -> Any:
    n, c, h, w = _image(b, inputs[0])
    block = _block(node)
    split = [n, c, b.solver.simplify(h // block), block, b.solver.simplify(w // block), block]
    parted = R.permute_dims(b.reshape(b.tensor(inputs[0]), split), [0, 3, 5, 1, 2, 4])
    return R.reshape(parted, [n, b.solver.simplify(c * block * block), split[2], split[4]])


def _image(b: Builder, value: Value) -> tuple[Size, ...]:
    if len(shape := b.shape(value)) != 4:
        raise BadModel(f"its input has rank {len(shape)}, it needs 4")
    return shape


def _block(node: Node) -> int:
    if not 0 < (block := node.integer("blocksize")) < 1024:
        raise BadModel(f"its blocksize is {block}")
    return block


CONVERTERS: dict[str, Converter] = {
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
