"""An ONNX graph's structure: what is checked before anything is made of it, and what is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx
import onnx.checker
import onnx.defs
from onnx import AttributeProto

from pocketformer.compiler.errors import BadModel


def check_order(graph: onnx.GraphProto) -> None:
    """Raise BadModel unless every value is made once, and before it is used."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made.update(tensor.values.name for tensor in graph.sparse_initializer)
    later = {name for node in graph.node for name in node.output}
    for node in graph.node:
        title = f"node {node.name!r} ({node.op_type})"
        for name in node.input:
            if not name or name in made:
                continue
            if name in later:
                raise BadModel(
                    f"{title} uses {name!r} before it is made: the nodes are unsorted or a cycle"
                )
            raise BadModel(f"{title} uses {name!r}, which nothing makes")
        for name in node.output:
            if name and name in made:
                raise BadModel(f"{title} makes {name!r}, which is there already")
            made.add(name)
    for value in graph.output:
        if value.name not in made:
            raise BadModel(f"output {value.name!r} is made by nothing")


def check_node(node: onnx.NodeProto, opsets: Mapping[str, int]) -> None:
    """Raise BadModel where a node of ONNX's own breaks its operator's schema."""
    if any(attribute.ref_attr_name for attribute in node.attribute):
        raise BadModel("it refers to an attribute of a function outside of one")
    if node.domain not in ("", "ai.onnx") or node.op_type == "If":
        return
    if opsets[""] > onnx.defs.onnx_opset_version():
        return    # newer than the installed onnx: nothing to check with
    if not onnx.defs.has(node.op_type):
        return    # com.microsoft operators that old exporters put in ONNX's domain
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = dict(opsets)
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        text = str(error).split("==>")[0].strip().splitlines()[0].rstrip(".: ")
        raise BadModel(text) from error


def check_functions(model: onnx.ModelProto) -> None:
    """Raise BadModel where a function of the model calls itself, which inlining would never end."""
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in function.node}
        for function in model.functions
    }
    pending = dict(calls)
    while pending:
        done = [key for key, called in pending.items() if not called & pending.keys()]
        if not done:
            raise BadModel(f"function {next(iter(pending))[1]!r} of the model calls itself")
        for key in done:
            del pending[key]


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def used_names(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, also from within its subgraphs."""
    yield from node.input
    for graph in inner_graphs(node):
        for inner in graph.node:
            yield from used_names(inner)
        yield from (value.name for value in graph.output)


def uses(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(name for node in graph.node for name in used_names(node))


def needed_names(graph: onnx.GraphProto) -> set[str]:
    """The names of all values that the outputs follow from."""
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(name for name in used_names(node) if name)
    needed.discard("")
    return needed
