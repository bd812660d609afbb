"""Target: a processor and system that code is compiled for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.target import Target as TvmTarget

LITTLE = "little"    # the name of a cluster that gets no worker by default
BASE = "base"        # the level that every processor of a target runs


@dataclass(frozen=True)
class Platform:
    """What an architecture on a system fixes: LLVM's triple, and the page size to align for."""

    triple: str
    page_size: int


# Android runs with 4 or 16 KiB pages, Linux on ARM with up to 64 KiB (a Raspberry Pi 5: 16 KiB).
PLATFORMS = {
    ("x86_64", "linux"): Platform("x86_64-unknown-linux-gnu", 4096),
    ("aarch64", "linux"): Platform("aarch64-unknown-linux-gnu", 65536),
    ("aarch64", "android"): Platform("aarch64-unknown-linux-android", 16384),
    ("arm", "android"): Platform("armv7a-unknown-linux-androideabi", 16384),
}


@dataclass(frozen=True)
class CoreCluster:
    """`count` equal cores; `l1d` and `l2` are bytes a core, `max_ghz` is 0.0 where unknown."""

    name: str
    count: int
    mcpu: str
    l1d: int
    l2: int
    max_ghz: float


@dataclass(frozen=True)
class Level:
    """What newer processors of a target can do; code for it runs on those that have `isa`."""

    name: str
    mcpu: str
    mattr: tuple[str, ...]
    isa: frozenset[str]


@dataclass(frozen=True)
class Target:
    """A processor and system; `load` makes one from its name.

    `isa` holds the instruction sets that code may use: those that all clusters have and that the
    system lets programs use. `cores` begins with the cluster that code is tuned for. `l3` is bytes,
    shared by all cores, 0 where there is none. `page_size` is the alignment of a library's segments
    in bytes. `android_api` is the oldest Android to link for, None on other systems.

    All of this is the base that every processor has. `levels` are the steps above it for which a
    bundle holds code as well, the lowest first, each with all that the one before has; `level` is
    the name of the one that `variants` made this target for, `for_many` whether it is one of
    several: then its processor is nobody's, but stands for many.
    """

    name: str
    description: str
    arch: str
    os: str
    mcpu: str
    mattr: tuple[str, ...]
    isa: frozenset[str]
    cores: tuple[CoreCluster, ...]
    l3: int = 0
    android_api: int | None = None
    levels: tuple[Level, ...] = ()
    level: str = BASE
    for_many: bool = False

    @property
    def variants(self) -> tuple[Target, ...]:
        """A target without levels for the base and for each level, in this order."""
        if not self.levels:
            return (self,)
        base = replace(self, levels=(), for_many=True)
        return (base, *map(base._at, self.levels))

    def _at(self, level: Level) -> Target:
        return replace(
            self,
            mcpu=level.mcpu,
            mattr=level.mattr,
            isa=level.isa,
            cores=tuple(replace(cluster, mcpu=level.mcpu) for cluster in self.cores),
            levels=(),
            level=level.name,
        )

    @property
    def triple(self) -> str:
        """LLVM's name of the architecture and system."""
        return PLATFORMS[self.arch, self.os].triple

    @property
    def page_size(self) -> int:
        return PLATFORMS[self.arch, self.os].page_size

    @property
    def l1d(self) -> int:
        """Level 1 data cache of the core that code is tuned for, in bytes."""
        return self.cores[0].l1d

    @property
    def l2(self) -> int:
        """Level 2 cache of the core that code is tuned for, in bytes."""
        return self.cores[0].l2

    @property
    def vector_bits(self) -> int:
        if "avx512f" in self.isa:
            return 512
        return 256 if "avx2" in self.isa else 128

    @property
    def vector_registers(self) -> int:
        return 32 if self.arch == "aarch64" or "avx512f" in self.isa else 16

    @property
    def threads(self) -> int:
        """How many workers a run gets by default: a little core would make all others wait."""
        return sum(cluster.count for cluster in self.cores if cluster.name != LITTLE)

    def tvm(self) -> TvmTarget:
        """The same as a target of TVM."""
        from tvm.target import Target as TvmTarget

        fields = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.mcpu}
        if self.mattr:
            return TvmTarget({**fields, "mattr": list(self.mattr), "num-cores": self.threads})
        return TvmTarget({**fields, "num-cores": self.threads})
