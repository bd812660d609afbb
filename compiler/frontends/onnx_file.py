"""Reads an ONNX file without reading its weights: those stay in the file and are mapped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from pocketformer.compiler.errors import BadModel

# A weight below this stays in the protobuf: mapping it would save nothing.
MAPPED_FROM_BYTES = 1024

DTYPES = {
    code: np.dtype(helper.tensor_dtype_to_np_dtype(code))
    for code in map(TensorProto.DataType.Value, (
        "FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL",
        "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
    ))
}    # fmt: skip

# Two to the byte in the file, the first in the lower half; a byte each here.
FOUR_BITS = {TensorProto.INT4: np.dtype("int8"), TensorProto.UINT4: np.dtype("uint8")}

MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9    # field numbers of onnx.proto
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5                # protobuf wire types


@dataclass(frozen=True)
class Source:
    """A parsed model, and where the weights are that were left in its file."""

    proto: onnx.ModelProto
    path: Path | None = None
    mapped: Mapping[str, tuple[int, int]] = field(default_factory=dict)    # name: offset, bytes

    def initializer(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The numbers of one of the graph's own weights, mapped if they were left in the file."""
        if tensor.name not in self.mapped or self.path is None:
            return self.array(tensor)
        path, (offset, size) = self.path, self.mapped[tensor.name]
        dtype, shape = _type_of(tensor)
        return _of_bytes(tensor, dtype, shape, lambda dtype, shape: _map(
            path, offset, size, dtype, shape, tensor.name))

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The tensor's numbers, read-only; BadModel tells what is wrong with them."""
        dtype, shape = _type_of(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            return _of_bytes(
                tensor, dtype, shape, lambda *type_: self._external(tensor, *type_))
        if tensor.HasField("raw_data"):
            return _of_bytes(tensor, dtype, shape, lambda *type_: _raw(tensor, *type_))
        try:
            return numpy_helper.to_array(tensor).astype(dtype, copy=False).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadModel(
                f"tensor {tensor.name!r} of shape {shape} does not have the data for it"
            ) from error

    def _external(
        self, tensor: onnx.TensorProto, dtype: np.dtype, shape: tuple[int, ...]
    ) -> np.ndarray:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        folder = Path(".") if self.path is None else self.path.parent
        # Lexically: a folder of links, such as a Hugging Face cache, is the user's own choice.
        inside = os.path.normpath(location.replace("\\", "/"))
        if not location or "\0" in location or inside.startswith("..") or os.path.isabs(inside):
            raise BadModel(
                f"tensor {tensor.name!r} has its data in {location!r}, outside the model's folder"
            )
        path = folder / inside
        if not path.is_file():
            raise BadModel(
                f"the file {str(path)!r} with the data of tensor {tensor.name!r} is missing"
            )
        needed = math.prod(shape) * dtype.itemsize
        try:
            offset = int(entries.get("offset", 0))
            size = int(entries.get("length", needed))
        except ValueError as error:
            raise BadModel(f"tensor {tensor.name!r} has no number as offset or length") from error
        return _map(path, offset, size, dtype, shape, tensor.name)


def dtype_of(code: int, what: str) -> np.dtype:
    """numpy's dtype for ONNX's code; `what` has it."""
    if code not in DTYPES:
        known = code in TensorProto.DataType.values()
        word = TensorProto.DataType.Name(code).lower() if known else f"number {code}"
        raise BadModel(f"{what} has dtype {word}, which is not supported")
    return DTYPES[code]


def open_model(source: str | os.PathLike[str] | onnx.ModelProto) -> Source:
    """Parse an ONNX file or take a ModelProto; BadModel where it is neither."""
    if isinstance(source, onnx.ModelProto):
        return Source(source)
    path = Path(source)
    if not path.is_file():
        raise BadModel(f"there is no file {str(path)!r}")
    if path.stat().st_size == 0:
        raise BadModel(f"the file {str(path)!r} is empty")
    content = np.memmap(path, np.uint8, mode="r")
    try:
        return _split(path, content)
    except (DecodeError, ValueError, IndexError) as error:
        raise BadModel(
            f"{str(path)!r} is not a complete ONNX file: it cannot be decoded"
        ) from error


def _split(path: Path, content: np.ndarray) -> Source:
    """Parse everything but the large weights, whose places are noted instead."""
    data = memoryview(content)    # type: ignore[arg-type]
    model, graph = onnx.ModelProto(), onnx.GraphProto()
    initializers, mapped, rest = [], {}, []
    for number, whole, value in _fields(data, 0, len(data)):
        if number != MODEL_GRAPH:
            rest.append(bytes(data[whole]))
            continue
        graph_rest = []
        for inner, inner_whole, inner_value in _fields(data, value.start, value.stop):
            if inner != GRAPH_INITIALIZER:
                graph_rest.append(bytes(data[inner_whole]))
                continue
            tensor, place = _tensor_without_data(data, inner_value)
            initializers.append(tensor)
            if place is not None:
                mapped[tensor.name] = place
        graph.MergeFromString(b"".join(graph_rest))
    model.ParseFromString(b"".join(rest))
    if initializers or graph.ByteSize():
        graph.initializer.extend(initializers)
        model.graph.CopyFrom(graph)
    return Source(model, path, mapped)


def _tensor_without_data(
    data: memoryview, place: slice
) -> tuple[onnx.TensorProto, tuple[int, int] | None]:
    tensor, parts, raw = onnx.TensorProto(), [], None
    for number, whole, value in _fields(data, place.start, place.stop):
        if number == TENSOR_RAW_DATA and value.stop - value.start >= MAPPED_FROM_BYTES:
            raw = (value.start, value.stop - value.start)
        else:
            parts.append(bytes(data[whole]))
    tensor.ParseFromString(b"".join(parts))
    return tensor, raw


def _fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, slice, slice]]:
    """Number, extent and extent of the value, for each field of a protobuf message."""
    at = start
    while at < end:
        tag, after = _varint(data, at, end)
        kind = tag & 7
        if kind == LENGTH:
            length, begin = _varint(data, after, end)
            stop = begin + length
        else:
            begin = after
            stop = {FIXED64: after + 8, FIXED32: after + 4}.get(kind, 0)
            if kind == VARINT:
                stop = _varint(data, after, end)[1]
        if not begin <= stop <= end or tag >> 3 == 0:
            raise ValueError("a field ends outside its message")
        yield tag >> 3, slice(at, stop), slice(begin, stop)
        at = stop


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if at + index >= end:
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number does not end")


def _of_bytes(
    tensor: onnx.TensorProto,
    dtype: np.dtype,
    shape: tuple[int, ...],
    read: Callable[[np.dtype, tuple[int, ...]], np.ndarray],
) -> np.ndarray:
    """The array that `read` finds for a dtype and shape; 4 bits are read as bytes and parted."""
    if tensor.data_type not in FOUR_BITS:
        return read(dtype, shape)
    count = math.prod(shape)
    packed = read(np.dtype("uint8"), (-(-count // 2),))
    both = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[:count].reshape(shape)
    return ((both ^ 8).astype("int8") - 8).astype("int8") if dtype == np.int8 else both


def _raw(tensor: onnx.TensorProto, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    _check_bytes(tensor.name, len(tensor.raw_data), dtype, shape)
    return np.frombuffer(tensor.raw_data, dtype).reshape(shape)


def _type_of(tensor: onnx.TensorProto) -> tuple[np.dtype, tuple[int, ...]]:
    known = FOUR_BITS.get(tensor.data_type)
    dtype = known or dtype_of(tensor.data_type, f"tensor {tensor.name!r}")
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape):
        raise BadModel(f"tensor {tensor.name!r} has a negative size in its shape {shape}")
    return dtype, shape


def _check_bytes(name: str, size: int, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    needed = math.prod(shape) * dtype.itemsize
    if size != needed:
        raise BadModel(
            f"tensor {name!r} of shape {shape} needs {needed} bytes of {dtype} and has {size}"
        )


def _map(
    path: Path, offset: int, size: int, dtype: np.dtype, shape: tuple[int, ...], name: str
) -> np.ndarray:
    _check_bytes(name, size, dtype, shape)
    if offset < 0 or offset + size > path.stat().st_size:
        raise BadModel(f"the file {path.name!r} ends before the data of tensor {name!r}")
    if size == 0:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
