"""A record: how fast one point of a workload's kernel was, on which processor. One JSON line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from pocketformer.compiler.decode import OPTIONAL, decode, parse_object
from pocketformer.compiler.errors import BadBundle, BadRecords
from pocketformer.compiler.tuning.points import (
    Point,
    decode_point,
    decode_workload,
    encode_point,
    encode_workload,
)
from pocketformer.schedules.workloads import MOST, Workload

MEASURED, ESTIMATED = "measured", "estimated"      # where a record's times are from
SOURCES = (MEASURED, ESTIMATED)
LEAST_US, MOST_US = 1e-3, 1e12    # of a time: sums and quotients of such ones are numbers as well
_ERROR = 2000     # characters of what a compiler or a device said; a line is to stay readable
_NAME = 200       # characters of any other text


@dataclass(frozen=True)
class DeviceNote:
    """The device that a point was timed on; what it did not tell is None."""

    name: str
    core: str
    emulated: bool = field(default=False, metadata=OPTIONAL)
    celsius: float | None = field(default=None, metadata=OPTIONAL)
    mhz: float | None = field(default=None, metadata=OPTIONAL)


def _decode_default(value: object, where: str) -> Point | None:
    return None if value is None else decode_point(value, where)


@dataclass(frozen=True)
class Record:
    """`point` takes `median_us` where the default point took `default_us` in the same run.

    That was the point `default`, None in records of older versions; targets have different ones.

    `sizes` are those of the workload's axes that are known only at run time, empty where it has
    none. `core` is LLVM's name of the processor, `target` what was compiled for. `spread` is how
    far off their ratio may be, as a share of it (the standard error of a median over `runs` of
    them). An estimate (`source`) has no device. `confirmed` times are of the last race of a task's
    best points, not of the search. A point that failed has an `error` in place of times. `time` is
    ISO 8601 in UTC.
    """

    workload: Workload = field(metadata={"decode": decode_workload})
    point: Point = field(metadata={"decode": decode_point})
    sizes: Mapping[str, int]
    target: str
    core: str
    threads: int
    source: str
    median_us: float | None
    default_us: float | None
    spread: float
    runs: int
    device: DeviceNote | None
    tvm: str
    pocketformer: str
    time: str
    confirmed: bool = field(default=False, metadata=OPTIONAL)
    error: str = field(default="", metadata=OPTIONAL)
    default: Point | None = field(default=None, metadata={**OPTIONAL, "decode": _decode_default})

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise BadRecords(f"source is {self.source!r}, not {' or '.join(SOURCES)}")
        if not self.error and not (_is_time(self.median_us) and _is_time(self.default_us)):
            raise BadRecords(
                f"a record without an error needs times from {LEAST_US:g} to {MOST_US:g} us")
        if not all(1 <= number <= MOST for number in (self.threads, *self.sizes.values())):
            raise BadRecords(f"threads and sizes are at least 1, and at most {MOST}")
        for point in filter(None, (self.point, self.default)):
            numbers = {name: value for name, value in vars(point).items() if type(value) is int}
            if wrong := [name for name, value in numbers.items() if not 0 <= value <= MOST]:
                raise BadRecords(f"a point's {wrong[0]} is at least 0, and at most {MOST}")
        if not (0 <= self.runs <= MOST and 0 <= self.spread <= MOST):
            raise BadRecords(f"runs and spread are at least 0, and at most {MOST}")
        names = self.target, self.core, self.tvm, self.pocketformer, self.time, *self.sizes
        for name in names:      # which people are shown
            if len(name) > _NAME or not name.isprintable():
                raise BadRecords(f"{name[:_NAME]!r} is no name: it is too long, or not printable")
        known = vars(self.workload)
        if wrong := [name for name in self.sizes if known.get(name, 0) is not None]:
            raise BadRecords(f"{wrong[0]!r} is no size that the workload leaves open")

    @property
    def gain(self) -> float:
        """How many times as fast as the default point; 0.0 for a point that failed."""
        if self.error or not self.median_us or not self.default_us:
            return 0.0
        return self.default_us / self.median_us

    @property
    def emulated(self) -> bool:
        """Whether the times are an emulator's, which say nothing about a processor."""
        return self.device is not None and self.device.emulated


def encode_record(record: Record) -> str:
    """`record` as one line of JSON, without the end of the line; a long error is cut."""
    plain = {each.name: getattr(record, each.name) for each in fields(record)}
    device = record.device
    plain |= {
        "workload": encode_workload(record.workload),
        "point": encode_point(record.point),
        "default": record.default and encode_point(record.default),
        "sizes": dict(sorted(record.sizes.items())),
        "device": device and {each.name: getattr(device, each.name) for each in fields(device)},
        "error": record.error[:_ERROR],
    }
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def decode_record(text: str, where: str) -> Record:
    """The record that the line `text` holds; `where` names it in an error. Raises BadRecords.

    Its point need not be legal, nor its processor known: see `Records.fitting`.
    """
    try:
        return decode(Record, parse_object(text, where), where)
    except BadBundle as error:
        raise BadRecords(str(error)) from None
    except RecursionError:
        raise BadRecords(f"{where} is nested too deeply") from None


def _is_time(us: float | None) -> bool:
    return us is not None and LEAST_US <= us <= MOST_US
