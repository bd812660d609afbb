"""An ONNX node as the converters see it: a unique name, its kind, attributes of known types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto

from pocketformer.compiler.errors import BadModel, UnsupportedOperator

ONNX_DOMAINS = ("", "ai.onnx")
OLDEST_OPSET = 11
DEEPEST_NESTING = 16    # of subgraphs in subgraphs; real models have two levels

TYPE_WORDS = {
    AttributeProto.INT: "an integer", AttributeProto.INTS: "integers",
    AttributeProto.FLOAT: "a number", AttributeProto.FLOATS: "numbers",
    AttributeProto.STRING: "text", AttributeProto.TENSOR: "a tensor",
    AttributeProto.GRAPH: "a graph",
}    # fmt: skip


@dataclass(frozen=True, eq=False)
class Node:
    """`kind` is the operator's name, with its domain in front where that is not ONNX's own."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]
    opset: int

    def _find(self, key: str, kind: int) -> AttributeProto | None:
        attribute = self.attributes.get(key)
        if attribute is not None and attribute.type != kind:
            raise BadModel(f"attribute {key!r} is not {TYPE_WORDS[kind]}")
        return attribute

    def integer(self, key: str, default: int | None = None) -> int:
        if (found := self._find(key, AttributeProto.INT)) is not None:
            return int(found.i)
        return self._required(key, default)

    def integers(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        if (found := self._find(key, AttributeProto.INTS)) is not None:
            return [int(value) for value in found.ints]
        return list(self._required(key, default))

    def number(self, key: str, default: float | None = None) -> float:
        if (found := self._find(key, AttributeProto.FLOAT)) is not None:
            return float(found.f)
        return self._required(key, default)

    def numbers(self, key: str) -> list[float]:
        found = self._find(key, AttributeProto.FLOATS)
        return self._required(key, None if found is None else list(found.floats))

    def text(self, key: str, default: str | None = None) -> str:
        if (found := self._find(key, AttributeProto.STRING)) is not None:
            return bytes(found.s).decode("utf-8", "replace")
        return self._required(key, default)

    def tensor(self, key: str) -> onnx.TensorProto | None:
        found = self._find(key, AttributeProto.TENSOR)
        return None if found is None else found.t

    def graph(self, key: str) -> onnx.GraphProto:
        found = self._find(key, AttributeProto.GRAPH)
        return self._required(key, None if found is None else found.g)

    @staticmethod
    def _required(key: str, value: Any) -> Any:
        if value is None:
            raise BadModel(f"attribute {key!r} is missing")
        return value


class NodeReader:
    """Makes Nodes of a model's NodeProtos, with names that are unique in the whole model."""

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self._opsets = opsets
        self._names: set[str] = set()
        self._count = 0

    def read(self, proto: onnx.NodeProto) -> Node:
        kind = kind_of(proto)
        self._count += 1
        name = proto.name or f"{proto.op_type}_{self._count}"
        while name in self._names:
            self._count += 1
            name = f"{proto.name or proto.op_type}_{self._count}"
        self._names.add(name)
        domain = "" if proto.domain in ONNX_DOMAINS else proto.domain
        attributes = {attribute.name: attribute for attribute in proto.attribute}
        return Node(
            name, kind, tuple(proto.input), tuple(proto.output), attributes,
            self._opsets.get(domain, 1),
        )    # fmt: skip


def kind_of(proto: onnx.NodeProto) -> str:
    domain = proto.domain
    return proto.op_type if domain in ONNX_DOMAINS else f"{domain}.{proto.op_type}"


def read_opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Version by domain, "" for ONNX's own. Raises BadModel where that is missing or too old."""
    opsets = {
        "" if entry.domain in ONNX_DOMAINS else entry.domain: int(entry.version)
        for entry in model.opset_import
    }
    if "" not in opsets:
        raise BadModel("the model does not say which ONNX opset it uses")
    if opsets[""] < OLDEST_OPSET:
        raise BadModel(
            f"the model uses ONNX opset {opsets['']}; export it with opset {OLDEST_OPSET} or later"
        )
    return opsets


def refuse_unknown(graph: onnx.GraphProto, known: Mapping[str, object]) -> None:
    """Raise UnsupportedOperator, naming every kind of node in `graph` that is not in `known`."""
    found: dict[str, list[str]] = {}
    for proto in _all_nodes(graph, DEEPEST_NESTING):
        if (kind := kind_of(proto)) not in known:
            found.setdefault(kind, []).append(repr(proto.name) if proto.name else "without a name")
    if not found:
        return
    parts = [
        f"{kind!r} ({len(names)} node{'s' * (len(names) > 1)}, first {names[0]})"
        for kind, names in found.items()
    ]
    verb = "is" if len(parts) == 1 else "are"
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    raise UnsupportedOperator(f"operator{'s' * (len(parts) > 1)} {listed} {verb} not supported")


def _all_nodes(graph: onnx.GraphProto, depth: int) -> Iterator[onnx.NodeProto]:
    if depth == 0:
        raise BadModel("the graph nests subgraphs too deeply")
    for proto in graph.node:
        yield proto
        for attribute in proto.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g, depth - 1)
