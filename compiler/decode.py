"""Untrusted JSON -> frozen dataclasses: every field present, of its type, and no other field.

Fields that are marked as optional may be missing, as they are in the files of older versions. A
field's metadata may name a function (value, where) that reads it: {"decode": function}.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pocketformer.compiler.errors import BadBundle, PocketformerError

T = TypeVar("T")
OPTIONAL = {"optional": True}    # metadata of a field that older files lack: it has its default
_LARGEST = sys.float_info.max
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object that `text` holds; BadBundle for other text, or for a name given twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name is given twice")
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON number")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadBundle(f"{where} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadBundle(f"{where} holds no JSON object")
    return value


def decode(kind: type[T], value: object, where: str) -> T:
    """`value`, as `json` reads it, as a dataclass `kind`; `where` names it in an error.

    Raises BadBundle that says which field is wrong. A dataclass's own checks count as well.
    """
    if not isinstance(value, dict):
        raise BadBundle(f"{where} is {_show(value)}, not an object")
    hints: dict[str, Any] = _hints(kind)    # type: ignore[arg-type]
    for name in value:
        if name not in hints:
            raise BadBundle(f"{where} has an unknown field {name!r}")
    for name in hints:
        if name not in value and name not in _optional(kind):    # type: ignore[arg-type]
            raise BadBundle(f"{where} lacks the field {name!r}")
    readers = _readers(kind)                # type: ignore[arg-type]
    fields = {
        name: readers.get(name, partial(_decode, hint))(value[name], f"{where}.{name}")
        for name, hint in hints.items() if name in value
    }
    try:
        return kind(**fields)
    except PocketformerError as error:
        raise BadBundle(f"{where} is wrong: {error}") from None


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@cache
def _optional(kind: type) -> frozenset[str]:
    return frozenset(
        field.name for field in dataclasses.fields(kind) if field.metadata.get("optional")
    )


@cache
def _readers(kind: type) -> dict[str, Any]:
    return {
        field.name: field.metadata["decode"]
        for field in dataclasses.fields(kind) if "decode" in field.metadata
    }


def _decode(hint: Any, value: object, where: str) -> Any:
    if hint in _NAMES:
        return _decode_plain((hint,), value, where)
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, where)           # type: ignore[arg-type]
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(of, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise BadBundle(f"{where} is {_show(value)}, not a list")
        return tuple(_decode(of[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    assert origin is Mapping, hint
    if not isinstance(value, dict):
        raise BadBundle(f"{where} is {_show(value)}, not an object")
    return {key: _decode(of[1], item, f"{where}[{key!r}]") for key, item in value.items()}


def _decode_union(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    plain = tuple(kind for kind in kinds if kind in _NAMES)
    rest = [kind for kind in kinds if kind not in plain and kind is not type(None)]
    if rest and type(value) not in plain:
        return _decode(rest[0], value, where)
    return _decode_plain(plain, value, where)


def _decode_plain(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    """`value`, which must be of one of `kinds`; a whole number counts as a number as well."""
    if float in kinds and type(value) in (int, float):
        number = float(value) if abs(value) <= _LARGEST else math.inf    # type: ignore[arg-type]
        if math.isfinite(number):                   # JSON's 1e999 is not
            return value if int in kinds and type(value) is int else number
    elif type(value) in kinds:                      # a bool is an int for isinstance
        return value
    raise BadBundle(f"{where} is {_show(value)}, not {' or '.join(_NAMES[kind] for kind in kinds)}")


def _show(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
