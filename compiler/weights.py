"""weights.safetensors: written tensor by tensor, mapped without a copy, aligned to 64 bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401 - teaches numpy the names bfloat16 and float8_*
import numpy as np

from pocketformer.compiler.checksum import HashedFile
from pocketformer.compiler.decode import parse_object
from pocketformer.compiler.errors import BadBundle

ALIGNMENT = 64              # bytes: a cache line, the widest vector, what TVM expects
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}
_CODES = {np.dtype(name): code for code, name in DTYPES.items()}
_PADDING = "__padding__."   # the format forbids holes, so that what fills one is a tensor too
_METADATA = "__metadata__"
_LARGEST_HEADER = 100_000_000       # bytes: the limit that the safetensors library sets


def write_weights(file: HashedFile, weights: Mapping[str, np.ndarray]) -> None:
    """Write `weights` in their order as safetensors. Copies one tensor at a time where it must."""
    header: dict[str, Any] = {_METADATA: {"format": "pocketformer"}}
    end = 0
    for name, array in weights.items():
        if name.startswith(_PADDING) or name == _METADATA:
            raise BadBundle(f"no weight may be called {name!r}; the file format uses this name")
        if array.dtype not in _CODES:
            raise BadBundle(f"the weight {name!r} has dtype {array.dtype}, which cannot be stored")
        header[name] = _entry(_CODES[array.dtype], list(array.shape), end, array.nbytes)
        end += array.nbytes
        if gap := -end % ALIGNMENT:
            header[f"{_PADDING}{len(header)}"] = _entry("U8", [gap], end, gap)
            end += gap
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in weights.values():
        file.write(_bytes_of(array))
        file.write(bytes(-array.nbytes % ALIGNMENT))


def _entry(code: str, shape: list[int], begin: int, size: int) -> dict[str, object]:
    return {"dtype": code, "shape": shape, "data_offsets": [begin, begin + size]}


def _bytes_of(array: np.ndarray) -> memoryview:
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.byteorder == ">":
        flat = flat.astype(flat.dtype.newbyteorder("<"))
    return flat.view(np.uint8).data


def read_weights(content: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as views of its bytes `content`, a uint8 array.

    Raises BadBundle for a file that is truncated, that has holes or overlaps, or whose tensors are
    not aligned to 64 bytes.
    """
    if content.size < 8:
        raise BadBundle(f"{where} is truncated: it has {content.size} bytes")
    length = int.from_bytes(content[:8].tobytes(), "little")
    if length > min(content.size - 8, _LARGEST_HEADER):
        raise BadBundle(f"{where} is truncated: its header alone should have {length} bytes")
    try:
        text = content[8 : 8 + length].tobytes().decode()
    except UnicodeDecodeError:
        raise BadBundle(f"the header of {where} is not UTF-8 text") from None
    header = parse_object(text, f"the header of {where}")
    header.pop(_METADATA, None)
    data = content[8 + length :]
    spans = {name: _span(entry, f"{name!r} in {where}") for name, entry in header.items()}
    _check_spans(spans, data.size, where)
    weights = {}
    for name, (begin, end) in spans.items():
        if name.startswith(_PADDING):
            continue
        if (8 + length + begin) % ALIGNMENT:
            raise BadBundle(f"{name!r} in {where} is not aligned to {ALIGNMENT} bytes")
        dtype, shape = DTYPES[header[name]["dtype"]], header[name]["shape"]
        weights[name] = data[begin:end].view(dtype).reshape(shape)
    return weights


def _span(entry: object, where: str) -> tuple[int, int]:
    """Where a tensor's data begins and ends, once its entry is known to be sound."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadBundle(f"the entry of {where} is not one of safetensors")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadBundle(f"{where} has the unknown dtype {dtype!r}")
    if not _are_counts(shape) or len(shape) > 32 or not _are_counts(offsets) or len(offsets) != 2:
        raise BadBundle(f"{where} has a shape or offsets that are no sizes")
    begin, end = offsets
    if end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
        raise BadBundle(f"{where} has {end - begin} bytes, which does not go with its shape")
    return begin, end


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_spans(spans: Mapping[str, tuple[int, int]], size: int, where: str) -> None:
    position = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            fault = "overlaps another tensor" if begin < position else "comes after a hole"
            raise BadBundle(f"{name!r} in {where} {fault}")
        position = end
    if position != size:
        raise BadBundle(f"{where} is truncated or too long: {size} bytes of data, not {position}")
