"""linear(x, w, b)  ->  quantized_linear(quantize(x), w_q, scales, b), attention and lookup too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import IRModule, Span

from pocketformer.compiler.quantization.numbers import (
    CastLayer,
    DynamicAttention,
    DynamicLinear,
    Int4Linear,
    Int8Attention,
    Numbers,
    StaticLinear,
    Table,
)
from pocketformer.passes.cast_products import cast_to
from pocketformer.passes.composite import Composites, composite_of, options_of
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.fused_operators import body_of
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import Graph, Replacement, Size, emit, op_name, shape
from pocketformer.passes.refusal import LOG, check_sums

MOST_NAMED = 5    # layers in a message


class Constants:
    """Arrays as constants of a module; the functions of one share them."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[np.ndarray, relax.Expr]] = {}

    def __call__(
        self, array: np.ndarray, packed: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> relax.Expr:
        """The constant of `array`, `packed`: always in the same way."""
        if id(array) not in self._made:    # which keeps the array, so that no other gets its id
            self._made[id(array)] = array, relax.const(packed(array))
        return self._made[id(array)][1]


@dataclass(frozen=True)
class QuantizeLayers(Fusion):
    """Every layer in `layers`, by the name of the variable that it is bound to."""

    layers: Mapping[str, Numbers]
    constants: Constants = field(default_factory=Constants, compare=False, repr=False)

    def __call__(self, mod: IRModule) -> IRModule:
        for gvar, func in entry_functions(mod):
            lost = self.layers.keys() - {str(var.name) for var, _ in Graph(func)}
            if lost:
                LOG.warning(
                    "%s computes %d layers in float32 that have numbers in few bits: it is fused "
                    "in another way than the model was when these were decided (%s)",
                    gvar.name_hint, len(lost), ", ".join(sorted(lost)[:MOST_NAMED]))
        return super().__call__(mod)

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The layer `call`, if there are numbers for it."""
        numbers = self.layers.get(var.name)
        if numbers is None:
            return None
        found = composite_of(search.mod, call)
        options = options_of(found[1]) if found else {}
        layer = _Layer(
            found[0] if found else op_name(call), call, options, var.name, search.composites,
            self.constants)
        wanted, rewrite = REWRITES[type(numbers)]
        assert layer.kind in wanted, f"{var.name} is a {layer.kind}, the numbers are {numbers!r}"
        if isinstance(numbers, StaticLinear | DynamicLinear):
            check_sums(len(numbers.weight))
        return var, Replacement(rewrite(layer, numbers), layer.before)


@dataclass
class _Layer:
    """A layer on its way: `before` are the bindings that its new value needs."""

    kind: str
    call: relax.Call
    options: dict[str, Any]
    name: str
    composites: Composites
    constants: Constants
    before: list[relax.VarBinding] = field(default_factory=list)

    @property
    def x(self) -> relax.Expr:
        return self.call.args[0]

    @property
    def span(self) -> Span | None:
        return self.call.span

    def emit(self, value: relax.Expr, name: str) -> relax.Var:
        return emit(self.before, value, f"{self.name}_{name}")

    def composite(self, name: str, args: list[relax.Expr], options: dict[str, Any]) -> relax.Call:
        """A call of the composite `name` in place of the layer."""
        return self.composites.call(
            name, args, lambda *a: body_of(name, options, *a), options, self.span)

    def quantized(self, x: relax.Expr, factor: relax.Expr, zero: int, name: str) -> relax.Var:
        """x in int8."""
        args = [x, factor, relax.const(np.array([zero], "int32"))]
        return self.emit(self.composite("quantize", args, {"dtype": "int8"}), name)

    def end(self, bias: np.ndarray | None) -> tuple[list[relax.Expr], dict[str, Any]]:
        """The last arguments and options of a linear, with `bias` in place of its own."""
        residual = bool(self.options["residual"])
        args = [] if bias is None else [self.constants(bias)]
        args += [self.call.args[-1]] * residual
        activation = self.options["activation"]
        return args, {"bias": bias is not None, "activation": activation, "residual": residual}


def _static(layer: _Layer, numbers: StaticLinear) -> relax.Call:
    const, zero = layer.constants, numbers.x.zero
    x = layer.quantized(layer.x, const(numbers.x.factor), zero, "x_int8")
    args = [x, const(numbers.weight), const(numbers.weight_scale)]
    if zero:
        args.append(relax.const(np.array([zero], "int32")))
    end, options = layer.end(numbers.bias)
    return layer.composite(
        "quantized_linear", args + end, {"zero": bool(zero), **options})


def _dynamic(layer: _Layer, numbers: DynamicLinear) -> relax.Call:
    const = layer.constants
    factor = [] if numbers.factor is None else [const(numbers.factor)]
    rows = layer.emit(
        layer.composite("quantize_rows", [layer.x, *factor], {}), "x_rows")
    x, scale, zero = (
        layer.emit(relax.TupleGetItem(rows, at), name)
        for at, name in enumerate(("x_int8", "x_scale", "x_zero")))
    end, options = layer.end(numbers.bias)
    return layer.composite(
        "quantized_linear",
        [x, const(numbers.weight), const(numbers.weight_scale), scale, zero, *end],
        {"scaled": True, "zero": True, "rows": True, **options},
    )


def _int4(layer: _Layer, numbers: Int4Linear) -> relax.Call:
    const = layer.constants
    end, options = layer.end(numbers.bias)
    return layer.composite(
        "weight_only_linear",
        [layer.x, const(numbers.weight), const(numbers.scale), *end],
        {"bits": 4, "group": numbers.group, **options},
    )


def _cast(layer: _Layer, numbers: CastLayer) -> relax.Call:
    return cast_to(
        numbers.dtype, layer.composites, layer.kind, layer.call, layer.options, layer.name,
        layer.before)


def _attention(layer: _Layer, numbers: Int8Attention) -> relax.Call:
    scales = (numbers.query_scale, numbers.key_scale, numbers.value_scale)
    packed = bool(layer.options.get("packed"))
    parts = layer.call.args[: 1 if packed else 3]
    factors = [np.array([1 / scale], "float32") for scale in scales]
    if packed:
        third = int(np.prod(shape(layer.x)[3:]))
        factors = [np.repeat(np.concatenate(factors), third)]
    args = [
        _flat_int8(layer, part, factor, f"{name}_int8")
        for part, factor, name in zip(parts, factors, "qkv"[: len(parts)], strict=True)
    ]
    product = scales[0] * scales[1] * float(layer.options["scale"])
    options = {**layer.options, "scale": 1.0, "dtype": "int8"}
    both = relax.const(np.array([product, scales[2]], "float32"))
    return layer.composite(
        "attention", [*args, *layer.call.args[len(parts) :], both], options)


def _dynamic_attention(layer: _Layer, numbers: DynamicAttention) -> relax.Call:
    options = {**layer.options, "dtype": "int8"}
    return layer.composite("attention", list(layer.call.args), options)


def _flat_int8(layer: _Layer, x: relax.Expr, factor: np.ndarray, name: str) -> relax.Expr:
    """x [batch, length, ...] in int8, quantised as [batch, length, k]."""
    sizes = shape(x)
    channels: Size = int(np.prod(sizes[2:]))
    flat = layer.emit(relax.op.reshape(x, [*sizes[:2], channels]), f"{name}_flat")
    short = layer.quantized(flat, relax.const(factor), 0, name)
    return layer.emit(relax.op.reshape(short, sizes), f"{name}_heads")


def _lookup(layer: _Layer, numbers: Table) -> relax.Call:
    _, ids = layer.call.args
    assert int(layer.call.attrs.axis) == 0, "a lookup takes rows"
    rows = layer.constants(numbers.rows, _pairs if numbers.bits == 4 else np.asarray)
    options = {"bits": numbers.bits, "group": numbers.group, "size": numbers.rows.shape[1]}
    return layer.composite("lookup", [ids, rows, layer.constants(numbers.scale)], options)


def _pairs(rows: np.ndarray) -> np.ndarray:
    """Numbers from -8 to 7 two to the byte, the first in the lower half, offset by 8."""
    pairs = (rows.reshape(len(rows), -1, 2) + 8).astype("uint8")
    return np.asarray(pairs[..., 0] | pairs[..., 1] << 4)


# The kinds of layers that numbers are for, and what becomes of one.
REWRITES: dict[type, tuple[tuple[str, ...], Callable[[_Layer, Any], relax.Call]]] = {
    StaticLinear: (("linear",), _static),
    DynamicLinear: (("linear",), _dynamic),
    Int4Linear: (("linear",), _int4),
    CastLayer: (("linear", "attention"), _cast),
    Int8Attention: (("attention",), _attention),
    DynamicAttention: (("attention",), _dynamic_attention),
    Table: (("relax.take",), _lookup),
}
