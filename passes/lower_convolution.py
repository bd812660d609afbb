"""activation(conv(x, w) + bias)  ->  activation(patches(x) @ w' + bias), with channels last.

A convolution is a matrix product whose rows are what the kernel sees at each place, which the
linear kernels compute near the machine's limit. Channels are moved to the end and back again;
between two convolutions both moves fold away. What stays a convolution has groups, or overlapping
windows of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from tvm import relax

from pocketformer.passes.fused_operators import ACTIVATIONS
from pocketformer.passes.graph import Graph, dtype, is_one, shape
from pocketformer.passes.pattern import Value, operator
from pocketformer.passes.rewrite import Match, Refused, Rewrite

x, weight = Value("x"), Value("weight")
conv = operator("nn.conv1d", x, weight) | operator("nn.conv2d", x, weight)
biased = conv + Value("bias")
# By the operators' names, with those of one argument that are written alike.
UNARY = {f"{'' if name in ('tanh', 'sigmoid') else 'nn.'}{name}": name for name in ACTIVATIONS}


class LowerConvolution(Rewrite):
    """Convolutions over one axis, and those that cut an image into tiles, of known sizes."""

    patterns = (
        *(operator(name, part) for name in UNARY for part in (biased, conv)),
        biased,
        conv,
    )

    def matches(self, graph: Graph, var: relax.Var) -> Iterator[Match]:
        """Those whose sum is with a bias for each channel, and whose parts nobody else reads."""
        for match in super().matches(graph, var):
            bias = match.found.values.get("bias")
            if bias is not None and not _is_bias(graph, bias, shape(var)):
                continue
            parts = {part for part in match.found.calls if not part.same_as(var)}
            if all(graph.only_user(part) is not None for part in parts):
                yield match

    def rewrite(self, match: Match) -> relax.Expr:
        (call,) = match.calls_of("nn.conv1d", "nn.conv2d")
        x, weight = call.args
        _check(match.graph, call)
        axes = len(shape(x)) - 2
        channels, *kernel = shape(weight)[1:]
        if list(map(int, call.attrs.strides)) == kernel and _are_tiles(call, kernel):
            rows, order = _tiles(x, kernel), [*range(1, axes + 2), 0]
        elif axes > 1:
            raise Refused("its windows overlap, and moving the channels of an image costs more")
        else:
            channels_last = relax.op.permute_dims(x, [0, 2, 1])
            rows, order = _windows(channels_last, call, kernel[0], shape(call)[2]), [2, 1, 0]
        columns = relax.op.permute_dims(weight, order)
        out = relax.op.matmul(
            rows, relax.op.reshape(columns, (channels * prod(kernel), shape(weight)[0])))
        if "bias" in match.found.values:
            out = relax.op.add(out, relax.op.reshape(match.value("bias"), (shape(weight)[0],)))
        for each in match.calls_of(*UNARY):
            out = relax.Call(each.op, [out], each.attrs)
        return relax.op.permute_dims(out, [0, axes + 1, *range(1, axes + 1)])


def _check(graph: Graph, call: relax.Call) -> None:
    x, weight = call.args
    if int(call.attrs.groups) != 1:
        raise Refused(f"it has {int(call.attrs.groups)} groups")
    if dtype(call) != "float32" or not graph.is_weight(weight):
        raise Refused("it is no float32 convolution with a weight")
    if str(call.attrs.data_layout) not in ("NCW", "NCHW"):
        raise Refused(f"its layout is {call.attrs.data_layout}")
    if not all(isinstance(size, int) for size in shape(x)[1:]):
        raise Refused("the size of an axis is known only at run time")


def _is_bias(graph: Graph, bias: relax.Expr, sizes: list[object]) -> bool:
    """Whether it has a number for each channel, and the same one everywhere."""
    if not graph.is_weight(bias) or not isinstance(bias.ty, relax.TensorType):
        return False
    aligned = [1] * (len(sizes) - len(shape(bias))) + list(shape(bias))
    return aligned[1] == sizes[1] and all(map(is_one, aligned[:1] + aligned[2:]))


def _are_tiles(call: relax.Call, kernel: list[int]) -> bool:
    """Whether windows a kernel apart cover the input, so that each number is in one."""
    sizes = zip(shape(call.args[0])[2:], kernel, strict=True)
    dilated = any(int(step) > 1 for step in call.attrs.dilation)
    return not any(map(int, call.attrs.padding)) and not dilated and all(
        size % each == 0 for size, each in sizes)


def _tiles(x: relax.Expr, kernel: list[int]) -> relax.Expr:
    """Windows that lie side by side: [batch, places ..., channel and place in the kernel]."""
    batch, channels, *sizes = shape(x)
    places = [size // each for size, each in zip(sizes, kernel, strict=True)]
    split = [each for pair in zip(places, kernel, strict=True) for each in pair]
    parts = relax.op.reshape(x, (batch, channels, *split))
    axes = range(len(kernel))
    order = [0, *(2 + 2 * axis for axis in axes), 1, *(3 + 2 * axis for axis in axes)]
    return relax.op.reshape(
        relax.op.permute_dims(parts, order), (batch, *places, channels * prod(kernel)))


def _windows(x: relax.Expr, call: relax.Call, kernel: int, places: int) -> relax.Expr:
    """Windows of x, whose channels are last: [batch, place, place in the kernel and channel]."""
    before, after = map(int, call.attrs.padding)
    (stride,), (step,) = map(int, call.attrs.strides), map(int, call.attrs.dilation)
    if before or after:
        x = relax.op.nn.pad(x, [0, 0, before, after, 0, 0])
    parts = []
    for place in range(kernel):
        begin = place * step
        end = begin + (places - 1) * stride + 1
        parts.append(relax.op.strided_slice(x, [1], [begin], [end], [stride], assume_inbound=True))
    return relax.op.concat(parts, axis=-1) if kernel > 1 else parts[0]
