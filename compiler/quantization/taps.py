"""A module's layers, the tensors that these read, and a module that gives those tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tvm import relax
from tvm.ir import IRModule

from pocketformer.compiler.dims import axes_of
from pocketformer.compiler.folding import Folding
from pocketformer.compiler.model import Model, TensorSpec
from pocketformer.compiler.quantization.layers import ATTENTION, LINEAR, LOOKUP, Layer
from pocketformer.passes.composite import composite_of, options_of
from pocketformer.passes.graph import Graph, dtype, op_name, shape, sources

READS = ("query", "key", "value")
STORES = ("norm", "linear", "attention")    # composites whose kernels can scale what they store


@dataclass(frozen=True)
class Tap:
    """Rows of `channels` that a layer reads from `var`, known as `key` in Statistics.

    Of a packed tensor they are the thirds numbered `third`.
    """

    key: str
    var: relax.Var
    channels: int
    third: int | None = None

    def rows(self, tensor: np.ndarray) -> np.ndarray:
        """[rows, channels] of what `var` is."""
        if self.third is None:
            return tensor.reshape(-1, self.channels)
        return tensor.reshape(-1, 3, self.channels)[:, self.third]


@dataclass(frozen=True)
class Found:
    """The layers of a module, and a tap for each tensor that they read.

    `ids` are lookups, by the place of the input that tells which rows they take.
    """

    layers: tuple[Layer, ...]
    taps: tuple[Tap, ...]
    ids: tuple[tuple[int, Layer], ...] = ()


def find_layers(module: IRModule, weights: Mapping[str, np.ndarray]) -> Found:
    """What `main` of a module that `graph` made consists of; other entries have the same layers."""
    finder = _Finder(module, weights)
    layers = tuple(finder.layers())
    assert len({layer.key for layer in layers}) == len(layers)
    return Found(layers, tuple(finder.taps.values()), tuple(finder.ids))


def tapped(module: IRModule, model: Model, taps: Sequence[Tap]) -> tuple[IRModule, Model]:
    """`module` and `model` with the variables of `taps` as outputs 0, 1, ... of `main`."""
    func = module["main"]
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    outputs = [relax.Var(str(place), tap.var.ty) for place, tap in enumerate(taps)]
    bindings += [
        relax.VarBinding(out, tap.var) for out, tap in zip(outputs, taps, strict=True)
    ]
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], relax.Tuple(outputs))
    body = relax.BlockBuilder().normalize(body)
    functions = {
        gvar: other for gvar, other in module.functions.items()
        if not (other.attrs and "global_symbol" in other.attrs)
    }
    functions[module.get_global_var("main")] = relax.Function(
        func.params, body, body.ty, func.is_pure, func.attrs
    )
    specs = tuple(
        TensorSpec(str(place), axes_of(tap.var.ty), "float32") for place, tap in enumerate(taps)
    )
    whole = IRModule(functions, attrs=module.attrs)
    whole = relax.transform.DeadCodeElimination(["main"])(whole)
    dims = {name: replace(dim, buckets=()) for name, dim in model.dims.items()}
    return whole, replace(model, outputs=specs, dims=dims)


@dataclass
class _Finder:
    module: IRModule
    weights: Mapping[str, np.ndarray]
    taps: dict[tuple[relax.Var, int, int | None], Tap] = field(default_factory=dict)
    ids: list[tuple[int, Layer]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.graph = Graph(self.module["main"])
        self.params = {var: str(var.name) for var in self.module["main"].params}
        self.folding = Folding(self.weights)

    def layers(self) -> Iterator[Layer]:
        for var, value in self.graph:
            if self.graph.is_weight(var):
                continue    # computed at compile time
            found = composite_of(self.module, value)
            if found is not None and found[0] == LINEAR:
                yield self._linear(var, value, found[1])
            elif found is not None and found[0] == ATTENTION:
                yield self._attention(var, value, found[1])
            elif _is_lookup(self.graph, value):
                table, names = self._array(value.args[0]), self._names(value, value.args[:1])
                layer = Layer(str(var.name), LOOKUP, names, weight=table)
                place = self._input(value.args[1])
                self.ids += [] if place is None else [(place, layer)]
                yield layer

    def _linear(self, var: relax.Var, call: relax.Call, func: relax.Function) -> Layer:
        options = options_of(func)
        weight = self._array(call.args[1])
        x = self.graph.root(call.args[0])
        stored = composite_of(self.module, self.graph.value(x))
        return Layer(
            key=str(var.name),
            kind=LINEAR,
            names=self._names(call, call.args[1 : 3 if options["bias"] else 2]),
            x=self._tap(str(call.args[0].name), x, len(weight)).key,
            weight=weight,
            bias=self._array(call.args[2]).reshape(-1) if options["bias"] else None,
            activation=options["activation"] or "none",
            smoothable=stored is not None and stored[0] in STORES,
            normed=stored is not None and stored[0] == "norm",
            before=str(x.name) if stored is not None and stored[0] == LINEAR else "",
        )

    def _attention(self, var: relax.Var, call: relax.Call, func: relax.Function) -> Layer:
        packed = bool(options_of(func).get("packed"))
        reads = []
        for place, name in enumerate(READS):
            arg = call.args[0 if packed else place]
            heads, size = shape(arg)[-2:]
            assert isinstance(heads, int)
            assert isinstance(size, int)
            third = place if packed else None
            key = f"{var.name}.{name}"
            reads.append(self._tap(key, self.graph.root(arg), heads * size, third).key)
        return Layer(str(var.name), ATTENTION, sources(call), reads=tuple(reads))

    def _tap(self, key: str, var: relax.Var, channels: int, third: int | None = None) -> Tap:
        """The tap of these rows: one for all that read them, with the key of the first."""
        return self.taps.setdefault((var, channels, third), Tap(key, var, channels, third))

    def _array(self, expr: relax.Expr) -> np.ndarray:
        return np.asarray(self.folding.evaluate(self.graph, expr), np.float32)

    def _input(self, expr: relax.Expr) -> int | None:
        """The place of the input that `expr` is, perhaps in another shape or dtype."""
        while self.graph.is_call(expr, "relax.reshape", "relax.astype"):
            expr = self.graph.value(expr).args[0]
        func = self.module["main"]
        inputs = list(func.params)[: int(func.attrs["num_input"])]
        return next((place for place, each in enumerate(inputs) if each.same_as(expr)), None)

    def _names(self, call: relax.Call, weights: Sequence[relax.Expr]) -> tuple[str, ...]:
        """Of the source's operators, then of the weights from which `weights` are computed."""
        found: dict[str, None] = dict.fromkeys(sources(call))
        pending = list(reversed(weights))
        while pending:
            expr = pending.pop()
            if expr in self.params:
                found[self.params[expr]] = None
            elif expr in self.graph.producer:
                pending += reversed(self.graph.used(self.graph.producer[expr]))
        return tuple(found)


def _is_lookup(graph: Graph, value: relax.Expr) -> bool:
    """Whether rows of a weight are taken by numbers that are not known now."""
    if op_name(value) != "relax.take" or value.attrs.axis is None or int(value.attrs.axis) != 0:
        return False
    table = value.args[0]
    return graph.is_weight(table) and len(shape(table)) == 2 and dtype(table) == "float32"
