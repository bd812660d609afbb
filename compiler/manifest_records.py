"""The parts of a manifest: target, levels, operators, kernels, memory, entries, weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketformer.compiler.decode import OPTIONAL
from pocketformer.compiler.model import Axis

if TYPE_CHECKING:
    from pocketformer.targets import Target


@dataclass(frozen=True)
class TargetRecord:
    """The machine that a bundle is for; `isa` are the instruction sets that its code needs.

    `features` are LLVM's names of all that the code may contain, as far as a system tells of it.
    """

    name: str
    arch: str
    os: str
    isa: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    vector_bits: int = 128
    mcpu: str = ""
    threads: int = 1

    @classmethod
    def of(cls, target: Target) -> TargetRecord:
        """What a bundle for `target` records about it."""
        from pocketformer.targets.host import WORDS
        from pocketformer.targets.llvm import features  # asks LLVM, which a run does without

        may_contain = features(target.triple, target.mcpu, target.mattr)
        return cls(
            name=target.name,
            arch=target.arch,
            os=target.os,
            isa=tuple(sorted(target.isa)),
            features=tuple(sorted(may_contain & WORDS.get(target.arch, {}).keys())),
            vector_bits=target.vector_bits,
            mcpu=target.mcpu,
            threads=target.threads,
        )

    def __str__(self) -> str:
        needs = f" (needs {', '.join(self.isa)})" if self.isa else ""
        return f"{self.arch} {self.os}{needs}"


@dataclass(frozen=True)
class LevelRecord:
    """Code for processors that have `isa` and `features`; the first of a bundle's is the base.

    A machine runs the last level that it can. `kernels` are compiled for this one alone and have
    `code_bytes`; the weights that it reads and none before it take `weight_bytes`.
    """

    name: str
    isa: tuple[str, ...]
    features: tuple[str, ...]
    mcpu: str
    vector_bits: int
    kernels: int
    code_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class OperatorRecord:
    """An operator of the source: the kernel that computes it, or a note that says why none does.

    `precision` is what the kernel computes in, such as float32, int8, "int8 (by token)" for rows in
    ranges of their own, or "int4 weights"; "" without a kernel.
    """

    name: str
    kind: str
    kernel: str | None
    note: str = ""
    precision: str = field(default="", metadata=OPTIONAL)


@dataclass(frozen=True)
class KernelRecord:
    """One call of a kernel, at its place in the order in which `entry` makes them.

    `function` is its name in the library, `kernel` the readable one; `workload` is what a template
    was made for. `operators` are places in the manifest's own `operators`. Floating-point
    `operations` and `bytes` are sizes or formulas in named dimensions, None where unknown. So are
    the bytes that a call takes at most while it runs: `scratch` once, `thread_scratch` on every
    thread that works on it. `tuned` tells which record chose another kernel than the default.
    """

    entry: str
    function: str
    kernel: str
    kind: str
    workload: str
    operators: tuple[int, ...]
    operations: Axis | None
    bytes: Axis | None
    scratch: Axis | None = field(default=None, metadata=OPTIONAL)
    thread_scratch: Axis | None = field(default=None, metadata=OPTIONAL)
    tuned: str = field(default="", metadata=OPTIONAL)


@dataclass(frozen=True)
class MemoryRecord:
    """The bytes of the arena that `entry` computes its intermediate results in, None if unknown.

    A number or a formula in named dimensions; those with an upper limit count with that.
    """

    entry: str
    arena: Axis | None


@dataclass(frozen=True)
class Entry:
    """A function of the library, the sizes that it is made for, the weights after its inputs.

    `level` names the one of the bundle's that it belongs to, where the bundle has levels.
    """

    function: str
    dims: Mapping[str, int]
    weights: tuple[str, ...]
    level: str = field(default="", metadata=OPTIONAL)


@dataclass(frozen=True)
class WeightsRecord:
    """The file of the weights, their count, and their bytes without header and padding."""

    file: str
    count: int
    bytes: int
