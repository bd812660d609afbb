"""Workloads and points of their spaces as JSON, and back from JSON that nobody vouches for.

A point that was read is a tuple of numbers and words until `legal` says that it is one of the space
of its workload on a target: only then may a kernel be built from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, get_args

from pocketformer.compiler.decode import decode
from pocketformer.compiler.errors import BadBundle, BadRecords
from pocketformer.schedules.cpu import TEMPLATES, Kernel, template_of
from pocketformer.schedules.cpu.trace import Trace
from pocketformer.schedules.workloads import Function, Workload

if TYPE_CHECKING:
    from pocketformer.targets import Target


class Point(Protocol):
    """One way to compute a workload: a frozen dataclass of a template's choices."""

    @property
    def name(self) -> str:
        """The kernel's."""

    def kernel(self, workload: Any, target: Target) -> Kernel:
        """The kernel for `workload`."""


# By the name that a record gives them.
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Workload)}
TEMPLATE_NAMES: dict[str, type[Any]] = {template.__name__: template for template in TEMPLATES}


def encode_workload(workload: Workload) -> dict[str, Any]:
    """`workload` as JSON: its class, then its fields."""
    return {"type": type(workload).__name__, **_encode(workload)}


def decode_workload(value: object, where: str) -> Workload:
    """The workload that `value` is, as `json` reads it; `where` names it in an error.

    A field that is missing has its default, if it has one. Raises BadRecords.
    """
    workload: Workload = _decode(KINDS, "type", value, where)
    return workload


def encode_point(point: Point) -> dict[str, Any]:
    """`point` as JSON: its template, then its fields."""
    return {"template": type(point).__name__, **_encode(point)}


def decode_point(value: object, where: str) -> Point:
    """The point that `value` is, as `json` reads it: not checked, see `legal`. Raises BadRecords.

    A field that is missing, as in a record of an older version, has its default.
    """
    point: Point = _decode(TEMPLATE_NAMES, "template", value, where)
    return point


def points_of(workload: Workload, target: Target) -> tuple[Point, ...]:
    """The space of `workload` on `target`, the default point first.

    Raises LookupError where no template computes it.
    """
    return _space(workload, target)[0]


def default_of(workload: Workload, target: Target) -> Point:
    """The untuned point of `workload` on `target`, the first of its space, without the others.

    Raises LookupError where no template computes it.
    """
    point: Point = template_of(workload).default(target, workload)
    return point


def legal(point: Point, workload: Workload, target: Target) -> bool:
    """Whether `point` is one of the space of `workload` on `target`.

    A function's traces are too many to list: one is legal that can be replayed, as far as the
    function's code is known here; ScheduleRest, which knows it, asks again.
    """
    if isinstance(workload, Function):
        return isinstance(point, Trace) and point.fits(workload)
    try:
        return point in _space(workload, target)[1]
    except LookupError:
        return False


def is_default(point: Point, workload: Workload, target: Target) -> bool:
    """Whether `point` is the one of `workload` that others are compared with on `target`."""
    return point == default_of(workload, target)


def point_text(point: Point) -> str:
    """`point` for people: its template and the fields that are not as they mostly are."""
    if isinstance(point, Trace):
        return f"{type(point).__name__} {point}"     # its steps would fill pages
    fields = dataclasses.fields(point)      # type: ignore[arg-type]
    said = [f"{each.name}={getattr(point, each.name)}" for each in fields
            if getattr(point, each.name) != each.default]
    return " ".join([type(point).__name__, *said])


def workload_key(workload: Workload) -> str:
    """What the workload's speed depends on; two that differ in scale or eps alone have the same."""
    return str(workload)


@cache
def _space(workload: Workload, target: Target) -> tuple[tuple[Point, ...], frozenset[Point]]:
    points = tuple(template_of(workload).space(target, workload))
    return points, frozenset(points)


def _encode(value: Any) -> dict[str, Any]:
    fields = ((field.name, getattr(value, field.name)) for field in _written(type(value)))
    return {name: list(each) if isinstance(each, tuple) else each for name, each in fields}


def _written(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields that are for files."""
    return [field for field in dataclasses.fields(kind) if not field.metadata.get("local")]


def _decode(kinds: Mapping[str, type[Any]], tag: str, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        raise BadRecords(f"{where} is no object")
    name = value.get(tag)
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise BadRecords(f"{where} has no {tag} that is known: {', '.join(kinds)}")
    if unknown := value.keys() - {tag, *(field.name for field in _written(kind))}:
        raise BadRecords(f"{where} has an unknown field {min(unknown)!r}")
    given = {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING
    }
    try:
        return decode(kind, given | {key: each for key, each in value.items() if key != tag}, where)
    except BadBundle as error:
        raise BadRecords(str(error)) from None
