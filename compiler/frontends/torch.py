"""nn.Module -> Model: exported to ONNX in a temporary folder and imported from there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.errors import BadDim, BadModel, MissingPackage
from pocketformer.compiler.frontends.torch_export import Export, Symbols, Tensors, load_export
from pocketformer.compiler.model import Dim, Model, parse_dims

if TYPE_CHECKING:
    import torch

CONSTANTS = (bool, int, float, str, type(None))


def load_torch(
    module: torch.nn.Module,
    example_inputs: Any,
    dims: Mapping[str, str | int | Dim] | None = None,
    name: str | None = None,
) -> Model:
    """The Model of `module` in evaluation mode; the module itself is left as it was.

    `example_inputs` is a tensor, a tuple in the order of `forward`'s parameters, or a dict by their
    names; None, numbers and strings in it are fixed for good. Axes keep the size of the example
    unless `dims` names them: as `INPUT.INDEX`, or as `batch` (the first axis of every input of two
    or more) and `seq` (the second axis of integer inputs of two).

    Raises BadModel if no exporter takes the module (with their reasons), BadDim for an axis that is
    not there or that the module's code does not let vary, MissingPackage without torch's exporter.
    """
    need("torch", "onnxscript")
    given = bind(module, example_inputs)
    inputs, constants = split(given)
    wanted = parse_dims(dims)
    symbols, left = choose_symbols(inputs, wanted)
    export = Export(module, lambda tensors: module(**constants, **tensors), inputs, symbols)
    return load_export(export, left, name or type(module).__name__)


def need(*packages: str) -> None:
    """Raise MissingPackage unless all of `packages`, of the extra `torch`, can be imported."""
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise MissingPackage(
                f"loading a PyTorch module needs {error.name or package}; "
                'run: pip install "pocketformer[torch]"'
            ) from error


def bind(module: torch.nn.Module, example_inputs: Any) -> dict[str, Any]:
    """The example inputs by the names that `forward` gives them."""
    import torch

    signature = inspect.signature(module.forward)
    try:
        if isinstance(example_inputs, Mapping):
            bound = signature.bind(**example_inputs)
        elif isinstance(example_inputs, (tuple, list)):
            bound = signature.bind(*example_inputs)
        elif isinstance(example_inputs, torch.Tensor):
            bound = signature.bind(example_inputs)
        else:
            raise BadModel(
                f"example_inputs is a {type(example_inputs).__name__}; "
                "give a tensor, a tuple of tensors or a dict of tensors by name"
            )
    except TypeError as error:
        takes = f"{type(module).__name__}.forward({', '.join(signature.parameters)})"
        raise BadModel(f"the example inputs do not fit {takes}: {error}") from error
    named: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL or kind is inspect.Parameter.POSITIONAL_ONLY:
            raise BadModel(
                f"{type(module).__name__}.forward takes {key!r} by position only; "
                "give its parameters names, so that the compiled model's inputs have names"
            )
        else:
            named[key] = value
    return named


def split(given: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """The tensors among `given`, which become inputs, and the constants."""
    import torch

    tensors, constants = {}, {}
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, CONSTANTS):
            constants[name] = value
        else:
            raise BadModel(
                f"example input {name!r} is a {type(value).__name__}; only tensors can be inputs"
            )
    if not tensors:
        raise BadModel("there is no tensor among the example inputs")
    return tensors, constants


def choose_symbols(inputs: Tensors, dims: Mapping[str, Dim]) -> tuple[Symbols, dict[str, Dim]]:
    """The axes that `dims` lets vary, and what of `dims` the import has to know.

    Axes of one size that get the same Dim by `INPUT.INDEX` share one symbol, as in an ONNX file.
    """
    places: dict[str, list[tuple[str, int]]] = {"batch": [], "seq": []}
    for name, tensor in inputs.items():
        places |= {f"{name}.{axis}": [(name, axis)] for axis in range(tensor.ndim)}
        if tensor.ndim >= 2:
            places["batch"].append((name, 0))
        if tensor.ndim == 2 and not tensor.is_floating_point():
            places["seq"].append((name, 1))
    symbols: dict[str, dict[int, str]] = {}
    shared: dict[tuple[int, Dim], str] = {}
    left = {}
    for key, dim in dims.items():
        if not places.get(key):
            known = ", ".join(name for name, found in places.items() if found)
            raise BadDim(f"the module's inputs have no dimension {key!r}; there are {known}")
        for name, axis in places[key]:
            size = inputs[name].shape[axis]
            if dim.fixed == size:
                continue
            left[key] = dim
            own = f"{name}_{axis}"
            symbol = key if "." not in key else shared.setdefault((size, dim), own)
            if symbols.setdefault(name, {}).setdefault(axis, symbol) != symbol:
                raise BadDim(f"axis {axis} of input {name!r} is named twice, once as {key!r}")
    return symbols, left
