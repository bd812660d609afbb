"""Compute now what depends on weights alone: packed layouts, transposes, tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule

from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Graph, constant, dtype, op_name, rebuild, shape

# A result of at most this many elements becomes part of the code, a larger one a weight.
INLINE_ELEMENTS = 16
# A larger expanded result costs more memory traffic when it is read than expanding it does.
MAX_EXPANDED_BYTES = 1 << 20
EXPANDING = ("relax.broadcast_to", "relax.repeat", "relax.tile")


class Folding:
    """Folds the modules of one model; `kept` are all the weights that any of them takes.

    Equal results are computed and kept once: `_names` leads from what was computed to its
    parameter's name.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = weights
        self._names: dict[str, str] = {}
        self.kept: dict[str, np.ndarray] = {}

    def module(self, mod: IRModule) -> IRModule:
        """Evaluate every binding of the entry functions that depends on weights only.

        The entry functions returned take the results as parameters after their inputs.
        """
        functions = dict(mod.functions.items())
        for gvar, func in entry_functions(mod):
            functions[gvar] = self.function(func)
        return IRModule(functions, attrs=mod.attrs)

    def function(self, func: relax.Function) -> relax.Function:
        graph = Graph(func)
        inputs = int(func.attrs["num_input"])
        weights = set(func.params[inputs:])
        folded = _foldable(graph)
        kept = [binding for binding in graph.bindings if binding.var not in folded]
        needed = {var for binding in kept for var in graph.used(binding.value)} | graph.outputs
        params: dict[str, relax.Var] = {}
        aliases: list[relax.VarBinding] = []
        for var in [*func.params[inputs:], *(binding.var for binding in graph.bindings)]:
            if var not in needed or not (var in weights or var in folded):
                continue
            if var in folded and _elements(var) <= INLINE_ELEMENTS:
                value = relax.const(self.evaluate(graph, var), dtype(var))
            else:
                value = self._param(graph, var, str(var.name), params)
            aliases.append(relax.VarBinding(var, value))
        for place, binding in enumerate(kept):
            kept[place] = self._without_constants(graph, binding, params)
        return rebuild(func, [*aliases, *kept], [*func.params[:inputs], *params.values()])

    def _without_constants(
        self, graph: Graph, binding: relax.VarBinding, params: dict[str, relax.Var]
    ) -> relax.VarBinding:
        """The call of a kernel takes large constants as parameters: they are weights, not code."""
        call, name = binding.value, str(binding.var.name)
        if op_name(call) != "relax.call_tir":
            return binding
        function, given = call.args[0], list(call.args[1].fields)
        large = [
            place for place, arg in enumerate(given)
            if isinstance(arg, GenericConst) and _elements(arg) > INLINE_ELEMENTS
        ]
        for place in large:
            given[place] = self._param(graph, given[place], f"{name}_{place}", params)
        if not large:
            return binding
        args = [function, relax.Tuple(given), *call.args[2:]]
        new = relax.Call(call.op, args, call.attrs, call.ty_args, call.span)
        return relax.VarBinding(binding.var, new)

    def _param(
        self, graph: Graph, expr: relax.Expr, name: str, params: dict[str, relax.Var]
    ) -> relax.Var:
        """The parameter, among `params`, that holds what `expr` computes; `name` if it is new."""
        key = expression_text(graph, expr)
        if key not in self._names:
            while name in self.kept:
                name += "_"
            self._names[key] = name
            self.kept[name] = self.evaluate(graph, expr)
        name = self._names[key]
        return params.setdefault(name, relax.Var(name, expr.ty))

    def evaluate(self, graph: Graph, expr: relax.Expr) -> Any:
        """What `expr`, which depends on weights and constants only, is: an array, or a list."""
        value = graph.value(expr)
        match value:
            case GenericConst():
                return constant(value)
            case relax.Tuple():
                return [self.evaluate(graph, item) for item in value.fields]
            case relax.TupleGetItem():
                return self.evaluate(graph, value.tuple_value)[int(value.index)]
            case relax.Call():
                args = [self.evaluate(graph, arg) for arg in value.args]
                compute = NUMPY.get(op_name(value))
                return compute(value, *args) if compute else _compiled(value, args)
            case relax.Var():
                return self._weights[value.name]
        return value    # a shape


def expression_text(graph: Graph, expr: relax.Expr) -> str:
    """What `expr` computes from which weights, as a string."""
    value = graph.value(expr)
    match value:
        case GenericConst():
            return hashlib.sha256(constant(value).tobytes()).hexdigest() + str(value.ty)
        case relax.Tuple():
            return "(" + ",".join(expression_text(graph, item) for item in value.fields) + ")"
        case relax.TupleGetItem():
            return f"{expression_text(graph, value.tuple_value)}[{value.index}]"
        case relax.Call():
            args = ",".join(expression_text(graph, arg) for arg in value.args)
            return f"{value.op}({args};{value.attrs};{value.ty})"
        case relax.Var():
            return str(value.name)
    return str(value)    # a shape


def _foldable(graph: Graph) -> set[relax.Var]:
    """The variables whose values are known now, but for those that are better computed late."""
    unknown: set[relax.Var] = set()
    folded = set()
    for var, value in graph:
        symbolic = relax.analysis.free_symbolic_vars(value)
        if not graph.is_weight(var) or symbolic or unknown.intersection(graph.used(value)):
            unknown.add(var)
        elif op_name(value) not in EXPANDING or _bytes(value) <= MAX_EXPANDED_BYTES:
            folded.add(var)
    return folded


def _elements(expr: relax.Expr) -> int:
    if not isinstance(expr.ty, relax.TensorType):
        return INLINE_ELEMENTS + 1
    return int(np.prod([int(size) for size in shape(expr)]))


def _bytes(expr: relax.Expr) -> int:
    return _elements(expr) * np.dtype(dtype(expr)).itemsize


def _compiled(call: relax.Call, args: list[Any]) -> Any:
    """The value of an operator that numpy has no equal of: compile and run it here."""
    params = [
        relax.Var(f"x{i}", arg.ty) if isinstance(arg.ty, relax.TensorType) else arg
        for i, arg in enumerate(call.args)
    ]
    builder = relax.BlockBuilder()
    tensors = [param for param in params if isinstance(param, relax.Var)]
    with builder.function("main", tensors):
        out = builder.emit(relax.Call(call.op, params, call.attrs, call.ty_args))
        builder.emit_func_output(out)
    program = tvm.compile(builder.get(), tvm.target.Target({"kind": "llvm"}))
    values = [tvm.runtime.tensor(arg) for arg in args if isinstance(arg, np.ndarray)]
    return relax.VirtualMachine(program, tvm.cpu())["main"](*values).numpy()


def _pad(call: relax.Call, x: np.ndarray) -> np.ndarray:
    widths = [int(width) for width in call.attrs.pad_width]
    value = float(call.attrs.pad_value)
    return np.pad(x, list(zip(widths[::2], widths[1::2], strict=True)), constant_values=value)


def _target_shape(call: relax.Call, x: np.ndarray, _: Any = None) -> list[int]:
    return [int(size) for size in shape(call)]


def _axes(call: relax.Call) -> tuple[int, ...] | None:
    return None if call.attrs.axis is None else tuple(int(axis) for axis in call.attrs.axis)


NUMPY: dict[str, Callable[..., Any]] = {
    "relax.permute_dims": lambda call, x: np.transpose(
        x, None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes]
    ),
    "relax.reshape": lambda call, x, _: np.reshape(x, _target_shape(call, x)),
    "relax.expand_dims": lambda call, x: np.reshape(x, _target_shape(call, x)),
    "relax.squeeze": lambda call, x: np.reshape(x, _target_shape(call, x)),
    "relax.broadcast_to": lambda call, x, _: np.broadcast_to(x, _target_shape(call, x)),
    "relax.concat": lambda call, parts: np.concatenate(parts, int(call.attrs.axis or 0)),
    "relax.nn.pad": _pad,
    "relax.astype": lambda call, x: x.astype(dtype(call)),
    "relax.add": lambda call, x, y: np.add(x, y),
    "relax.subtract": lambda call, x, y: np.subtract(x, y),
    "relax.multiply": lambda call, x, y: np.multiply(x, y),
    "relax.left_shift": lambda call, x, y: np.left_shift(x, y),
    "relax.matmul": lambda call, x, y: np.matmul(x, y),
    "relax.sum": lambda call, x: np.sum(
        x, _axes(call), x.dtype, keepdims=bool(call.attrs.keepdims)
    ),
}
