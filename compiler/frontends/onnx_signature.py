"""The inputs of an ONNX graph and which of their axes are symbolic, after the user's overrides."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx

from pocketformer.compiler.errors import BadDim, BadModel
from pocketformer.compiler.frontends.onnx_file import dtype_of
from pocketformer.compiler.frontends.onnx_values import Size, Solver
from pocketformer.compiler.model import LARGEST_SIZE, Dim

HIGHEST_RANK = 8


@dataclass(frozen=True)
class InputAxis:
    """An axis as the file has it: a size or a symbol's name (or an expression of symbols)."""

    tensor: str
    index: int
    size: int | None
    symbol: str


@dataclass(frozen=True)
class InputType:
    name: str
    dtype: str
    axes: tuple[InputAxis, ...]


def read_inputs(graph: onnx.GraphProto) -> list[InputType]:
    """The graph's inputs that are not weights. Raises BadModel for what is no dense tensor."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_read_input(value) for value in graph.input if value.name not in weights]
    names = [read.name for read in inputs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadModel(f"the graph has two inputs called {twice[0]!r}")
    return inputs


def _read_input(value: onnx.ValueInfoProto) -> InputType:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise BadModel(f"input {value.name!r} is not a tensor but {kind or 'of no type'}")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise BadModel(f"input {value.name!r} has no shape; export the model with one")
    if len(tensor.shape.dim) > HIGHEST_RANK:
        raise BadModel(f"input {value.name!r} has more than {HIGHEST_RANK} axes")
    axes = []
    for index, dim in enumerate(tensor.shape.dim):
        size = dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
        if size == 0 or (size or 1) > LARGEST_SIZE:
            raise BadModel(f"axis {index} of input {value.name!r} has the size {size}")
        text = dim.dim_param if dim.HasField("dim_param") else ""
        axes.append(InputAxis(value.name, index, size, text or f"{value.name}_{index}"))
    dtype = str(dtype_of(tensor.elem_type, f"input {value.name!r}"))
    return InputType(value.name, dtype, tuple(axes))


def declare_dims(
    inputs: list[InputType],
    dims: Mapping[str, Dim],
    equal: Mapping[str, str | int],
    solver: Solver,
) -> dict[str, tuple[Size, ...]]:
    """The shape of every input, its symbols declared in `solver`.

    `dims` has keys `AXIS` (a symbol's name) or `INPUT.AXIS` (a symbol's name or an index); axes
    that the file fixes at the same size and that get the same new Dim become one symbol.
    `equal` has the symbols that the model needs to be another one or a number.
    Raises BadDim for a key that the model does not have, and for contradictions.
    """
    freed: dict[tuple[int, Dim], str] = {}
    inputs = [_with_free_axes(read, dims, freed) for read in inputs]
    wanted = _wanted(inputs, dims)
    plain = dict.fromkeys(
        axis.symbol for read in inputs for axis in read.axes if axis.size is None
    )
    names = _names(plain)
    ranges = _ranges(names, wanted, equal)
    symbols: dict[str, Size] = {}
    variables: dict[str, Size] = {}
    for text in sorted(plain, key=lambda symbol: not symbol.isidentifier()):
        size = None if text in wanted else _evaluate(text, symbols)
        if size is None:
            size = _followed(names[text], equal)
        if isinstance(size, str):
            dim = ranges[size]
            if size not in variables:
                variables[size] = solver.declare(size, dim) if dim.fixed is None else dim.fixed
            size = variables[size]
        symbols[text] = solver.simplify(size)
    return {
        read.name: tuple(
            symbols[axis.symbol] if axis.size is None else axis.size for axis in read.axes
        )
        for read in inputs
    }


def _names(symbols: Iterable[str]) -> dict[str, str]:
    """What to call the dimensions, each differently."""
    names: dict[str, str] = {}
    for symbol in symbols:
        name, count = _identifier(symbol), 1
        while name in names.values():
            count += 1
            name = f"{_identifier(symbol)}_{count}"
        names[symbol] = name
    return names


def _followed(name: str, equal: Mapping[str, str | int]) -> str | int:
    """The dimension or number that `name` has to be."""
    found: str | int = name
    while isinstance(found, str) and found in equal:
        found = equal[found]
    return found


def _ranges(
    names: Mapping[str, str], wanted: Mapping[str, Dim], equal: Mapping[str, str | int]
) -> dict[str, Dim]:
    """The range of every dimension: what is wanted of it and of all that have to be equal."""
    ranges: dict[str, Dim] = {}
    for symbol, name in names.items():
        dim, final = wanted.get(symbol, Dim()), _followed(name, equal)
        if isinstance(final, int):
            if symbol in wanted and dim.fixed != final:
                raise BadDim(f"dimension {symbol!r} cannot be {dim}: the model needs {final}")
            continue
        other = ranges.get(final, Dim())
        highs = [one.high for one in (dim, other) if one.high is not None]
        low, high = max(dim.low, other.low), min(highs, default=None)
        if high is not None and low > high:
            raise BadDim(f"dimensions {symbol!r} and {final!r} must be equal: {dim} and {other}")
        buckets = tuple(sorted({*dim.buckets, *other.buckets}))
        ranges[final] = Dim(low, high, tuple(b for b in buckets if high is None or b <= high))
    return ranges


def _with_free_axes(
    read: InputType, dims: Mapping[str, Dim], freed: dict[tuple[int, Dim], str]
) -> InputType:
    """Axes that the file fixes and `dims` frees get a symbol, one in `freed` for a size and Dim."""
    axes = []
    for axis in read.axes:
        dim = dims.get(f"{axis.tensor}.{axis.index}")
        if axis.size is None or dim is None:
            axes.append(axis)
            continue
        symbol = freed.setdefault((axis.size, dim), f"{axis.tensor}_{axis.index}")
        axes.append(replace(axis, size=None, symbol=symbol))
    return replace(read, axes=tuple(axes))


def _wanted(inputs: list[InputType], dims: Mapping[str, Dim]) -> dict[str, Dim]:
    """What `dims` says for every symbol."""
    symbol_of = {}
    for read in inputs:
        for axis in read.axes:
            if axis.size is None:
                symbol_of[axis.symbol] = symbol_of[_identifier(axis.symbol)] = axis.symbol
                symbol_of[f"{axis.tensor}.{axis.symbol}"] = axis.symbol
                symbol_of[f"{axis.tensor}.{axis.index}"] = axis.symbol
    wanted: dict[str, Dim] = {}
    for key, dim in dims.items():
        if key not in symbol_of:
            raise BadDim(f"the model has no dimension {key!r}; {_listed(inputs)}")
        symbol = symbol_of[key]
        if wanted.setdefault(symbol, dim) != dim:
            raise BadDim(f"dimension {symbol!r} is said to be {wanted[symbol]} and also {dim}")
    return wanted


def _listed(inputs: list[InputType]) -> str:
    symbols = {axis.symbol: None for read in inputs for axis in read.axes if axis.size is None}
    places = ", ".join(
        f"{read.name}.0..{read.name}.{len(read.axes) - 1}" for read in inputs if read.axes
    )
    return f"its dimensions are {', '.join(symbols) or 'all fixed'}, its axes {places}"


def _identifier(text: str) -> str:
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
    return name if name and not name[0].isdigit() else f"dim_{name}".rstrip("_")


def _evaluate(text: str, symbols: Mapping[str, Size]) -> Size | None:
    """A file may call an axis "past + seq": the sum, where both are axes elsewhere; else None."""
    if len(text) > 200:
        return None
    try:
        return _evaluate_node(ast.parse(text, mode="eval").body, symbols)
    except (SyntaxError, KeyError, ValueError, MemoryError, RecursionError):
        return None


def _evaluate_node(node: ast.expr, symbols: Mapping[str, Size]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return symbols[node.id]
    if not isinstance(node, ast.BinOp):
        raise ValueError("no arithmetic")
    left, right = _evaluate_node(node.left, symbols), _evaluate_node(node.right, symbols)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Mult):
        return left * right
    if isinstance(node.op, ast.Sub):
        return left - right
    raise ValueError("no arithmetic")
