"""What a device tells of itself, before anything is sent to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketformer.compiler.errors import DeviceRefused


@dataclass(frozen=True)
class Core:
    """`count` processor cores of one kind; what the device cannot read is None."""

    name: str | None
    count: int
    max_mhz: float | None


@dataclass(frozen=True)
class Ended:
    """How a device's last session ended ("normally", "timed out", "signal 11", "exit code 3")."""

    how: str
    seconds: float


@dataclass(frozen=True)
class DeviceInfo:
    """A device as it describes itself; what it cannot read is None.

    `isa` are instruction sets by the names of a target's. `pocketformer` and `tvm` are versions.
    """

    key: str
    arch: str
    os: str
    isa: frozenset[str] | None
    cores: tuple[Core, ...]
    memory_bytes: int | None
    model: str | None
    emulated: bool
    pocketformer: str
    tvm: str
    busy: bool
    last_session: Ended | None
    free_bytes: int | None

    @classmethod
    def from_json(cls, text: bytes, place: str) -> DeviceInfo:
        """What `text` tells; `place` names the device. Raises DeviceRefused for other text."""
        try:
            data = json.loads(text)
            last, isa, runtime = data["last_session"], data["isa"], data["runtime"]
            return cls(
                key=str(data["key"]),
                arch=str(data["arch"]),
                os=str(data["os"]),
                isa=None if isa is None else frozenset(map(str, isa)),
                cores=tuple(map(_core, data["cores"] or ())),
                memory_bytes=_or_none(int, data["memory_bytes"]),
                model=_or_none(str, data["model"]),
                emulated=bool(data["emulated"]),
                pocketformer=str(runtime["pocketformer"]),
                tvm=str(runtime["tvm"]),
                busy=bool(data["busy"]),
                last_session=last and Ended(str(last["ended"]), float(last["seconds"])),
                free_bytes=_or_none(int, data["free_bytes"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise DeviceRefused(
                f"what listens at {place} does not describe itself as a pocketformer device of "
                "this version does"
            ) from None

    @property
    def name(self) -> str:
        """The key and what is known of the processor: `pixel8 (4x cortex-a76, 2x cortex-a55)`."""
        cores = ", ".join(f"{core.count}x {core.name}" for core in self.cores if core.name)
        return f"{self.key} ({cores})" if cores else self.key


@dataclass(frozen=True)
class State:
    """The processor's hottest sensor and the clock of its fastest core that may be used; None for
    what the device does not tell."""

    celsius: float | None
    mhz: float | None

    @classmethod
    def from_json(cls, text: str) -> State:
        """What `text` tells, which a device sent: nothing at all if that is no state."""
        try:
            data = json.loads(text)
            found = cls(_or_none(float, data["celsius"]), _or_none(float, data["mhz"]))
            if all(math.isfinite(value or 0.0) for value in (found.celsius, found.mhz)):
                return found
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            pass
        return cls(None, None)


def _core(data: Mapping[str, Any]) -> Core:
    return Core(
        _or_none(str, data["name"]), int(data["count"]), _or_none(float, data["max_mhz"])
    )


def _or_none(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)
