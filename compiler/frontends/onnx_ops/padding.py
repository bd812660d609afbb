"""Pad, by constants and by symbolic amounts."""

from __future__ import annotations

from typing import Any

from tvm.relax import op as R

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_builder import Builder, Converter
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_ops import slices
from pocketformer.compiler.frontends.onnx_values import Size, Value

PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(b: Builder, node: Node, inputs: list[Value | None]) -> Any:
    data, pads, fill, axes = ([*inputs, None, None, None])[:4]
    rank = b.rank(data)
    mode = node.text("mode", "constant")
    if mode not in PAD_MODES:
        raise BadModel(f"it has no mode {mode!r}")
    on = list(range(rank)) if axes is None else [b.axis(a, rank) for a in b.sizes(axes, "axes")]
    amounts = b.sizes(pads, "pads")
    if len(amounts) != 2 * len(on):
        raise BadModel(f"it has {len(amounts)} pads for {len(on)} axes")
    number = 0.0 if fill is None else float(b.number(fill, "fill"))
    if any(not isinstance(amount, int) for amount in amounts):
        if mode != "constant":
            raise UnsupportedOperator(f"it pads by symbolic amounts in mode {mode!r}")
        return _pad_by_joining(b, data, on, amounts, number)
    width, cuts = [0] * (2 * rank), []
    for index, axis in enumerate(on):
        before, after = amounts[index], amounts[len(on) + index]
        size = b.shape(data)[axis]
        width[2 * axis], width[2 * axis + 1] = max(before, 0), max(after, 0)
        if before < 0 or after < 0:
            kept = b.solver.simplify(size + min(before, 0) + min(after, 0))
            cuts.append(slices.Cut(axis, max(-before, 0), kept, 1))
    data = slices.cut(b, data, cuts)
    b.check_shape([
        b.solver.simplify(size + width[2 * i] + width[2 * i + 1])
        for i, size in enumerate(b.shape(data))
    ])    # fmt: skip
    if not any(width):
        return data
    return R.nn.pad(b.tensor(data), width, PAD_MODES[mode], number)


def _pad_by_joining(
    b: Builder, data: Value, axes: list[int], amounts: list[Size], number: float
) -> Any:
    tensor, dtype = b.tensor(data), b.dtype(data)
    for index, axis in enumerate(axes):
        before, after = amounts[index], amounts[len(axes) + index]
        shape = list(b.shape(tensor))
        parts = [tensor]
        for place, amount in ((0, before), (2, after)):
            if isinstance(amount, int) and amount == 0:
                continue
            if not b.solver.proves(b.solver.at_least(amount, 0)):
                raise UnsupportedOperator(f"it pads by {amount}, which may be negative")
            block = R.full([*shape[:axis], amount, *shape[axis + 1 :]], b.literal(number, dtype))
            parts.insert(place, b.emit(block))
        tensor = b.emit(R.concat(parts, axis)) if len(parts) > 1 else tensor
    return tensor


CONVERTERS: dict[str, Converter] = {"Pad": _pad}
