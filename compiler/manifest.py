"""Manifest: what a bundle says about itself, and manifest.json, which is checked like any input."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import TYPE_CHECKING

from pocketformer.compiler.axes import names_in
from pocketformer.compiler.checksum import FileRecord
from pocketformer.compiler.decode import OPTIONAL, decode, parse_object
from pocketformer.compiler.errors import BadBundle, BadDim
from pocketformer.compiler.manifest_records import (
    Entry,
    KernelRecord,
    LevelRecord,
    MemoryRecord,
    OperatorRecord,
    TargetRecord,
    WeightsRecord,
)
from pocketformer.compiler.model import Axis, Dim, TensorSpec
from pocketformer.compiler.quantization.result import AccuracyReport

if TYPE_CHECKING:
    from pocketformer.targets import Target

FORMAT_VERSION = 1
FILE = "manifest.json"
LIBRARY = "model.so"
WEIGHTS = "weights.safetensors"
DTYPES = frozenset({
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2",
})
LARGEST = 64 << 20          # bytes of a manifest that is worth reading
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")    # of a file inside the folder


@cache
def version_of(package: str) -> str:
    """The installed version of `package`, or "unknown"."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return "unknown"


def _our_version() -> str:
    from pocketformer import __version__  # which imports this module

    return __version__


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Manifest:
    """Everything that a bundle says about itself. Whoever makes one leaves out what has a default.

    `entries` are the functions of the library; one whose `dims` is empty takes every size that
    `dims` allows. `weights` is None where the library holds them. `files` is filled by a save.
    `kernels` are the kernel calls of all entries, `memory` their arenas; older bundles do not tell
    them. `levels` is empty where all machines run the same code. `accuracy` tells what was measured
    where the model was compiled with an accuracy check.
    Raises BadBundle for parts that contradict one another.
    """

    name: str
    target: TargetRecord
    recipe: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, Dim]
    entries: tuple[Entry, ...]
    operators: tuple[OperatorRecord, ...] = ()
    weights: WeightsRecord | None = None
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    pocketformer_version: str = field(default_factory=_our_version)
    tvm_version: str = field(default_factory=lambda: version_of("apache-tvm"))
    tvm_ffi_version: str = field(default_factory=lambda: version_of("apache-tvm-ffi"))
    created: str = field(default_factory=_now)
    format_version: int = FORMAT_VERSION
    kernels: tuple[KernelRecord, ...] = field(default=(), metadata=OPTIONAL)
    memory: tuple[MemoryRecord, ...] = field(default=(), metadata=OPTIONAL)
    levels: tuple[LevelRecord, ...] = field(default=(), metadata=OPTIONAL)
    accuracy: AccuracyReport | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise BadBundle(problem)

    @classmethod
    def describe(
        cls,
        *,
        name: str,
        target: Target,
        recipe: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        dims: Mapping[str, Dim],
        entries: tuple[Entry, ...],
        operators: tuple[OperatorRecord, ...] = (),
        kernels: tuple[KernelRecord, ...] = (),
        memory: tuple[MemoryRecord, ...] = (),
        levels: tuple[LevelRecord, ...] = (),
        accuracy: AccuracyReport | None = None,
    ) -> Manifest:
        """The manifest of what was just compiled for `target`, by the versions installed here."""
        record = TargetRecord.of(target)
        return cls(
            name, record, recipe, inputs, outputs, dict(dims), entries, operators,
            kernels=kernels, memory=memory, levels=levels, accuracy=accuracy,
        )

    def at(self, level: str) -> TargetRecord:
        """The target as a machine sees it that runs `level`."""
        found = next((each for each in self.levels if each.name == level), None)
        if found is None:
            return self.target
        return replace(
            self.target, isa=found.isa, features=found.features, mcpu=found.mcpu,
            vector_bits=found.vector_bits,
        )

    def _problems(self) -> Iterator[str]:
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [spec.name for spec in specs]
            yield from (f"the {kind} {name!r} is given twice" for name in _repeated(names))
            yield from filter(None, (self._problem_of(kind, spec) for spec in specs))
        yield from self._problems_of_entries()
        yield from filter(None, map(self._problem_of_kernel, self.kernels))
        for record in self.memory:
            who = f"the arena of {record.entry!r}"
            yield from filter(None, [self._problem_of_sizes(who, [record.arena])])
        for file in (*self.files, *([self.weights.file] if self.weights else [])):
            if not _PLAIN_NAME.fullmatch(file):
                yield f"{file!r} is no plain file name inside the bundle's folder"
        if self.files:
            expected = {LIBRARY} | ({self.weights.file} if self.weights else set())
            if self.files.keys() != expected or FILE in expected:
                yield f"its files are {sorted(self.files)}, not {sorted(expected)}"

    def _problems_of_entries(self) -> Iterator[str]:
        levels = [level.name for level in self.levels]
        yield from (f"the level {name!r} is given twice" for name in _repeated(levels))
        if not self.entries:
            yield "a bundle needs an entry"
        for entry in self.entries:
            if unknown := sorted(entry.dims.keys() - self.dims.keys()):
                yield f"the entry {entry.function!r} fixes the unknown dimension {unknown[0]!r}"
            if self.files and self.weights is None and entry.weights:
                yield f"the entry {entry.function!r} takes weights, and there is no file of them"
            if entry.level not in (levels or [""]):
                yield f"the entry {entry.function!r} has the unknown level {entry.level!r}"
        for level in levels:
            if all(entry.level != level for entry in self.entries):
                yield f"the level {level!r} has no entry"

    def _problem_of(self, kind: str, spec: TensorSpec) -> str:
        if spec.dtype not in DTYPES:
            return f"the {kind} {spec.name!r} has the unknown dtype {spec.dtype!r}"
        try:
            unknown = sorted(frozenset().union(*map(names_in, spec.shape)) - self.dims.keys())
        except BadDim as error:
            return f"the {kind} {spec.name!r} is wrong: {error}"
        if kind == "input" and unknown:
            return f"the {kind} {spec.name!r} has the unknown dimension {unknown[0]!r}"
        if any(isinstance(axis, int) and axis < 0 for axis in spec.shape):
            return f"the {kind} {spec.name!r} has a negative axis"
        return ""

    def _problem_of_kernel(self, kernel: KernelRecord) -> str:
        if any(not 0 <= place < len(self.operators) for place in kernel.operators):
            return f"the kernel {kernel.function!r} names an operator that is not there"
        who = f"the cost of the kernel {kernel.function!r}"
        sizes = (kernel.operations, kernel.bytes, kernel.scratch, kernel.thread_scratch)
        return self._problem_of_sizes(who, sizes)

    def _problem_of_sizes(self, who: str, sizes: Iterable[Axis | None]) -> str:
        formulas = [size for size in sizes if size is not None]
        try:
            unknown = sorted(frozenset().union(*map(names_in, formulas)) - self.dims.keys())
        except BadDim as error:
            return f"{who} is wrong: {error}"
        return f"{who} has the unknown dimension {unknown[0]!r}" if unknown else ""

    def to_json(self) -> bytes:
        """The text of manifest.json, whose first field is a checksum of all the rest."""
        lines = [f'"checksum": "{"0" * 64}"']
        for name, value in asdict(self).items():
            lines.append(f"{json.dumps(name)}: {_layout(value)}")
        text = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
        return text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode(), 1)

    @classmethod
    def from_json(cls, text: bytes, where: str = FILE) -> Manifest:
        """The manifest that `text` holds.

        Raises BadBundle for a text that is no manifest, that was changed, or that another version
        of the format laid out. `where` names the file in the message.
        """
        if len(text) > LARGEST:
            raise BadBundle(f"{where} has {len(text)} bytes, too many for a manifest")
        try:
            data = parse_object(text.decode(), where)
        except UnicodeDecodeError:
            raise BadBundle(f"{where} is no JSON: it is not UTF-8 text") from None
        version = data.get("format_version")
        if type(version) is not int:
            raise BadBundle(f"{where} has no format version; is this a pocketformer bundle?")
        if version != FORMAT_VERSION:
            raise BadBundle(
                f"the bundle has format version {version}; this pocketformer reads {FORMAT_VERSION}"
            )
        checksum = str(data.pop("checksum", "")).encode()
        plain = text.replace(checksum, b"0" * 64, 1) if checksum else text
        if hashlib.sha256(plain).hexdigest().encode() != checksum:
            raise BadBundle(f"{where} was changed: it does not match its own checksum")
        return decode(cls, data, where)


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]    # type: ignore[func-returns-value]


def _layout(value: object) -> str:
    """JSON with one element of a list of objects a line, so that a reader finds his way."""
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        return "[\n " + ",\n ".join(json.dumps(item) for item in value) + "\n]"
    return json.dumps(value)
