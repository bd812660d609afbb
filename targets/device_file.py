"""A device file (TOML) -> Target; every key is checked."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pocketformer.compiler.errors import BadTarget
from pocketformer.targets.target import BASE, PLATFORMS, CoreCluster, Level, Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value = TypeVar("Value", str, int, float)

KINDS: dict[type, str] = {
    str: "a text", int: "a whole number of at least 0", float: "a number of at least 0",
}
KEYS = {
    "description", "arch", "os", "mcpu", "mattr", "isa", "l3_kib", "android_api", "cores",
    "levels",
}
LEVEL_NAME = re.compile("[a-z][a-z0-9]*")    # it ends the names of functions
LEVEL_KEYS = {"name", "mcpu", "mattr", "isa"}
CORE_KEYS = {"name", "count", "mcpu", "l1d_kib", "l2_kib", "max_ghz"}


@dataclass(frozen=True)
class _Table:
    """A table of the file whose values are taken with a check; `where` begins every complaint."""

    where: str
    values: dict[str, Any]

    def only(self, keys: Collection[str]) -> None:
        for key in self.values.keys() - keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]!r}" if near else f"known are {', '.join(sorted(keys))}"
            raise BadTarget(f"{self.where}: unknown key {key!r}; {hint}")

    def get(self, key: str, kind: type[Value]) -> Value:
        if key not in self.values:
            raise BadTarget(f"{self.where}: the key {key!r} is missing")
        value = self.values[key]
        good = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not good or isinstance(value, bool) or (kind is not str and value < 0):
            raise BadTarget(f"{self.where}: {key!r} must be {KINDS[kind]}, not {value!r}")
        return kind(value)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise BadTarget(f"{self.where}: {key!r} must be a list of texts, not {value!r}")
        return tuple(value)


def read_device(path: Path) -> Target:
    """The target that the file at `path` describes, named after the file.

    Raises BadTarget, naming the file and the key, if it cannot be read or a key is unknown,
    missing or of the wrong kind. Whether LLVM knows the processor is not checked here.
    """
    where = f"device file {path}"
    try:
        with path.open("rb") as file:
            table = _Table(where, tomllib.load(file))
    except OSError as error:
        raise BadTarget(f"{where} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadTarget(f"{where} is not TOML: {error}") from None
    table.only(KEYS)
    arch, system = table.get("arch", str), table.get("os", str)
    if (arch, system) not in PLATFORMS:
        known = ", ".join(" ".join(pair) for pair in PLATFORMS)
        raise BadTarget(f"{where}: {arch} {system} is no platform; known are {known}")
    if (system == "android") != ("android_api" in table.values):
        raise BadTarget(f"{where}: 'android_api' belongs to Android, and only there")
    return Target(
        name=path.stem,
        description=table.get("description", str),
        arch=arch,
        os=system,
        mcpu=table.get("mcpu", str),
        mattr=table.texts("mattr"),
        isa=frozenset(table.texts("isa")),
        cores=_cores(table),
        l3=table.get("l3_kib", int) * 1024 if "l3_kib" in table.values else 0,
        android_api=table.get("android_api", int) if system == "android" else None,
        levels=_levels(table),
    )


def _cores(device: _Table) -> tuple[CoreCluster, ...]:
    clusters = device.values.get("cores")
    if not isinstance(clusters, list) or not clusters or not isinstance(clusters[0], dict):
        raise BadTarget(f"{device.where}: it needs at least one [[cores]] table")
    return tuple(_cluster(_Table(f"{device.where}, [[cores]] {i}", table))
                 for i, table in enumerate(clusters, 1))


def _levels(device: _Table) -> tuple[Level, ...]:
    tables = device.values.get("levels", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise BadTarget(f"{device.where}: the levels are written as [[levels]] tables")
    levels = tuple(_level(_Table(f"{device.where}, [[levels]] {i}", table))
                   for i, table in enumerate(tables, 1))
    names = [BASE, *(level.name for level in levels)]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise BadTarget(f"{device.where}: two levels are called {repeated!r}")
    return levels


def _level(table: _Table) -> Level:
    table.only(LEVEL_KEYS)
    name = table.get("name", str)
    if not LEVEL_NAME.fullmatch(name):
        raise BadTarget(f"{table.where}: {name!r} is no name; take lower-case letters and digits")
    return Level(
        name=name,
        mcpu=table.get("mcpu", str),
        mattr=table.texts("mattr"),
        isa=frozenset(table.texts("isa")),
    )


def _cluster(table: _Table) -> CoreCluster:
    table.only(CORE_KEYS)
    return CoreCluster(
        name=table.get("name", str),
        count=table.get("count", int),
        mcpu=table.get("mcpu", str),
        l1d=table.get("l1d_kib", int) * 1024,
        l2=table.get("l2_kib", int) * 1024,
        max_ghz=table.get("max_ghz", float),
    )
