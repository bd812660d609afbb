"""Which products of short numbers each instruction set has, the best first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pocketformer.schedules.cpu.dot import (
    BFloat16Dot,
    BFloat16Widened,
    Dot,
    Float16Products,
    Int8Dot,
    Int8Pairs,
    Int8Widened,
)
from pocketformer.schedules.cpu.intrinsics import TABLE, isa_named, isa_of

if TYPE_CHECKING:
    from pocketformer.targets import Target

_X86, _ARM = "x86_64", "aarch64"
_AVX512, _NEON = ((isa.tiles, isa.panels) for isa in map(isa_named, ("avx512", "neon")))
_PAIRS = {
    "avx512": "llvm.x86.avx512.pmaddw.d.512",
    "avx2": "llvm.x86.avx2.pmadd.wd",
    "sse": "llvm.x86.sse2.pmadd.wd",
}

# A target gets the first row of a dtype that it satisfies. Every machine has one for bfloat16 and
# for int8. Those of an architecture have equal groups and panels, so that a library for several of
# its levels has its weights once.
DOTS: tuple[Dot, ...] = (
    BFloat16Dot("vdpbf16ps", _X86, frozenset({"avx512f", "avx512bf16"}), 2, 16, *_AVX512,
                intrinsic="llvm.x86.avx512bf16.dpbf16ps.512"),
    BFloat16Dot("bfmmla", _ARM, frozenset({"bf16"}), 2, 4, *_NEON, 2, matrix=True,
                intrinsic="llvm.aarch64.neon.bfmmla"),
    BFloat16Dot("bfdot", _ARM, frozenset({"bf16"}), 2, 4, *_NEON, 4, by_lane=True,
                intrinsic="llvm.aarch64.neon.bfdot.v4f32.v8bf16"),
    Int8Dot("vpdpbusd", _X86, frozenset({"avx512f", "avx512vnni"}), 4, 16, *_AVX512,
            intrinsic="llvm.x86.avx512.vpdpbusd.512", unsigned=True),
    Int8Dot("smmla", _ARM, frozenset({"i8mm"}), 4, 4, *_NEON, 8, matrix=True,
            intrinsic="llvm.aarch64.neon.smmla.v4i32.v16i8"),
    Int8Dot("sdot", _ARM, frozenset({"dotprod"}), 4, 4, *_NEON, 16, by_lane=True,
            intrinsic="llvm.aarch64.neon.sdot.v4i32.v16i8"),
    Float16Products("fp16", _ARM, frozenset({"fp16"}), 1, 8, ((8, 24), (8, 16), (8, 8)),
                    (24, 16, 8), 4, by_lane=True),
    *(BFloat16Widened(isa.name, isa.arch, isa.needs, 2, isa.lanes, isa.tiles, isa.panels, 1,
                      isa.by_lane)
      for isa in TABLE),
    *(Int8Pairs(isa.name, isa.arch, isa.needs, 4, isa.lanes, isa.tiles, isa.panels, 1,
                isa.by_lane, intrinsic=_PAIRS[isa.name])
      for isa in TABLE if isa.name in _PAIRS),
    *(Int8Widened(isa.name, isa.arch, isa.needs, 4, isa.lanes, isa.tiles, isa.panels, 1,
                  isa.by_lane)
      for isa in TABLE if isa.name not in _PAIRS),
)


def dots_of(target: Target, dtype: str) -> Iterator[Dot]:
    """The rows for weights of `dtype` that `target` satisfies, the best first: the machine's own
    products, and arithmetic with its longest vectors."""
    shorter = {isa.name for isa in TABLE} - {isa_of(target).name}
    for dot in DOTS:
        fits = (dot.dtype, dot.arch) == (dtype, target.arch) and dot.needs <= target.isa
        if fits and dot.name not in shorter:
            yield dot


def dot_named(name: str, dtype: str) -> Dot:
    """The row with this name, as a kernel's name carries it."""
    return next(dot for dot in DOTS if (dot.name, dot.dtype) == (name, dtype))
