"""ONNX file -> Model: an importer of our own, because TVM's stops at mask and shape arithmetic.

Every edge of the graph holds numbers that are known now, sizes that are known but for the symbolic
dimensions, or a Relax expression. What can be computed from the first two is computed at import.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from tvm import ir, relax

from pocketformer.compiler.dims import axes_of
from pocketformer.compiler.errors import BadDim, BadModel, PocketformerError
from pocketformer.compiler.frontends.onnx_builder import Builder, identifier
from pocketformer.compiler.frontends.onnx_file import Source, open_model
from pocketformer.compiler.frontends.onnx_graph import (
    check_functions,
    check_node,
    check_order,
    needed_names,
    uses,
)
from pocketformer.compiler.frontends.onnx_node import Node, NodeReader, read_opsets, refuse_unknown
from pocketformer.compiler.frontends.onnx_ops import CONVERTERS
from pocketformer.compiler.frontends.onnx_ops.bounds import note_interval
from pocketformer.compiler.frontends.onnx_ops.fold import FOLDERS, fold
from pocketformer.compiler.frontends.onnx_signature import InputType, declare_dims, read_inputs
from pocketformer.compiler.frontends.onnx_values import MustBeEqual, Solver, Value
from pocketformer.compiler.model import Dim, Model, Operator, TensorSpec

SUPPORTED: dict[str, Any] = {**FOLDERS, **CONVERTERS, "If": None}


def load_onnx(
    source: str | os.PathLike[str] | onnx.ModelProto,
    dims: Mapping[str, Dim] | None = None,
    name: str | None = None,
) -> Model:
    """The Model of an ONNX file or proto, its weights mapped from the file where possible.

    `dims` overrides what the file says about its inputs' axes: the keys are the file's names of
    dimensions, or `INPUT.AXIS` with such a name or an index. Raises BadModel for what cannot be
    read, UnsupportedOperator (all of the model's at once) and BadDim.
    """
    opened = open_model(source)
    equal: dict[str, str | int] = {}
    try:
        while True:
            try:
                return _Importer(opened, dims or {}, equal).run(name or _name_of(opened))
            except MustBeEqual as found:    # one dimension fewer than before
                equal[found.name] = found.other
    except PocketformerError:
        raise
    except Exception as error:    # whatever a malformed file makes TVM or onnx say is a BadModel
        raise BadModel(f"the model cannot be read: {_sentence(error)}") from error


def _name_of(source: Source) -> str:
    return source.path.stem if source.path is not None else source.proto.graph.name or "model"


def _sentence(error: BaseException) -> str:
    """The first line of what was said, with sizes as a user writes them: n + 2."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return re.sub(r"T\.int64\((-?\d+)\)", r"\1", text)


class _Importer:
    def __init__(
        self, source: Source, dims: Mapping[str, Dim], equal: Mapping[str, str | int]
    ) -> None:
        self.source = source
        self.dims = dims
        self.equal = equal
        self.solver = Solver()
        self.operators: list[Operator] = []

    def run(self, name: str) -> Model:
        if not self.source.proto.HasField("graph") or not self.source.proto.graph.output:
            raise BadModel("the model has no graph with outputs")
        if self.source.proto.functions:
            check_functions(self.source.proto)
            inlined = onnx.inliner.inline_local_functions(self.source.proto)
            self.source = replace(self.source, proto=inlined)
        graph = self.source.proto.graph
        self.opsets = read_opsets(self.source.proto)
        self.reader = NodeReader(self.opsets)
        self.output_names = {value.name for value in graph.output}
        refuse_unknown(graph, SUPPORTED)
        check_order(graph)
        inputs = read_inputs(graph)
        params, scope = self._enter(graph, inputs)
        with self.builder:
            self._walk(graph, scope)
            outputs = [self._output(value.name, scope) for value in graph.output]
            function = self.builder.finish(outputs)
        return self._finish(name, graph, params, function)

    def _enter(
        self, graph: onnx.GraphProto, inputs: list[InputType]
    ) -> tuple[list[relax.Var], dict[str, Value]]:
        """Open the block: inputs become parameters, initializers constants."""
        shapes = declare_dims(inputs, self.dims, self.equal, self.solver)
        params = [
            relax.Var(read.name, relax.TensorType(list(shapes[read.name]), read.dtype))
            for read in inputs
        ]
        scope: dict[str, Value] = dict(zip((read.name for read in inputs), params, strict=True))
        self.builder = Builder(self.solver, self.source, params)
        if graph.sparse_initializer:
            raise BadModel("the model has sparse weights, which are not supported")
        self.builder.weights.uses = uses(graph)
        for tensor in graph.initializer:
            scope[tensor.name] = array = self.source.initializer(tensor)
            self.builder.weights.name(array, tensor.name)
        return params, scope

    def _walk(self, graph: onnx.GraphProto, scope: MutableMapping[str, Value]) -> None:
        needed = needed_names(graph)
        for proto in graph.node:
            if not needed.isdisjoint(proto.output):
                self._node(proto, scope)

    def _node(self, proto: onnx.NodeProto, scope: MutableMapping[str, Value]) -> None:
        node = self.reader.read(proto)
        self.builder.node, self.builder.note = node, ""
        try:
            check_node(proto, self.opsets)
            values = [self._look_up(name, scope) for name in node.inputs]
            results = self._results(node, values, scope)
            for name, result in zip(node.outputs, results, strict=False):
                if name:
                    scope[name] = self._settled(name, result)
                    note_interval(self.builder, node, values, scope[name])
        except MustBeEqual:
            raise
        except PocketformerError as error:
            raise type(error)(f"node {node.name!r} ({node.kind}): {_sentence(error)}") from error
        except Exception as error:    # a malformed node can make any call below fail
            raise BadModel(f"node {node.name!r} ({node.kind}): {_sentence(error)}") from error
        if node.kind != "Constant":
            self.operators.append(Operator(node.name, node.kind, self.builder.note))

    @staticmethod
    def _look_up(name: str, scope: Mapping[str, Value]) -> Value | None:
        if not name:
            return None
        if name not in scope:
            raise BadModel(f"it uses {name!r}, which nothing makes")
        return scope[name]

    def _results(
        self, node: Node, values: list[Value | None], scope: MutableMapping[str, Value]
    ) -> list[Any]:
        if node.kind == "If":
            return self._branch(node, values, scope)
        folded = fold(self.builder, node, values)
        if folded is not None:
            return list(folded)
        converter = CONVERTERS.get(node.kind)
        if converter is None:    # can only be computed at import
            raise BadModel("its inputs depend on the input's data")
        result = converter(self.builder, node, values)
        return list(result) if isinstance(result, tuple) else [result]

    def _settled(self, name: str, result: Any) -> Value:
        if result is None:
            raise BadModel(f"its output {name!r} is not supported")
        if isinstance(result, np.ndarray):
            self.builder.weights.name(result, name)
            return result
        if not isinstance(result, ir.Expr):
            return result
        return self.builder.emit_result(result, name in self.output_names)

    def _branch(
        self, node: Node, values: list[Value | None], scope: MutableMapping[str, Value]
    ) -> list[Any]:
        """The nodes of the branch that is always taken, in place of the If."""
        taken = self.builder.number(values[0], "condition")
        graph = node.graph("then_branch" if taken else "else_branch")
        inner: ChainMap[str, Value] = ChainMap({}, scope)
        for tensor in graph.initializer:
            inner[tensor.name] = self.source.array(tensor)
        self._walk(graph, inner)
        self.builder.node = node
        return [self._look_up(value.name, inner) for value in graph.output]

    def _output(self, name: str, scope: Mapping[str, Value]) -> relax.Expr:
        if name not in scope:
            raise BadModel(f"output {name!r} is made by nothing")
        return self.builder.tensor(scope[name])

    def _finish(
        self, name: str, graph: onnx.GraphProto, params: list[relax.Var], function: relax.Function
    ) -> Model:
        module = ir.IRModule({"main": function})
        limits = self.solver.dims
        for key, dim in self.dims.items():
            self._check_limit(key, dim, limits)
        return Model(
            name=name,
            module=module,
            weights=self.builder.weights.arrays(function.params[len(params) :]),
            inputs=tuple(_spec(param.name, param.ty) for param in params),
            outputs=tuple(
                _spec(value.name, ty)
                for value, ty in zip(graph.output, function.ret_ty.fields, strict=True)
            ),
            dims=limits,
            operators=tuple(self.operators),
        )

    @staticmethod
    def _check_limit(key: str, wanted: Dim, limits: Mapping[str, Dim]) -> None:
        """A table in the model, such as its position embedding, may limit a dimension."""
        limit = limits.get(identifier(key.rpartition(".")[2]), limits.get(identifier(key)))
        if limit is None or wanted.fixed is not None or wanted.high is None or limit.high is None:
            return
        if limit.high < wanted.high:
            raise BadDim(
                f"dimension {key!r} was asked to go up to {wanted.high}, "
                f"but a table in the model ends at {limit.high}"
            )


def _spec(name: str, ty: relax.TensorType) -> TensorSpec:
    return TensorSpec(name, axes_of(ty), str(ty.dtype))
