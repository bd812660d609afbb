"""What a 32-bit ARM64 instruction does, as far as it matters for speed.

The masks follow the tables "A64 instruction set encoding" of the Arm Architecture Reference Manual.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache


@dataclass(frozen=True)
class Counts:
    """Instructions by what they do; `other` is what the rest of them is.

    `fmla`: NEON multiply-adds of floats. `dot`: sums of products in one instruction (sdot, smmla,
    bfmmla ...). `scalar`: arithmetic on one float. A load of two registers is one load; an atomic
    update counts as a load, a prefetch as other.
    """

    fmla: int = 0
    dot: int = 0
    scalar: int = 0
    load: int = 0
    store: int = 0
    branch: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def products(self) -> int:
        """Instructions that multiply and add: what a matrix product is made of."""
        return self.fmla + self.dot

    def __add__(self, more: Counts) -> Counts:
        return Counts(
            **{f.name: getattr(self, f.name) + getattr(more, f.name) for f in fields(self)}
        )

    def __mul__(self, times: int) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) * times for f in fields(self)})


# Kind, mask, value: the first line that fits decides.
TABLE: tuple[tuple[str, int, int], ...] = (
    # Vectors of floats
    ("fmla", 0xBFA0FC00, 0x0E20CC00),      # fmla v.4s, v.2d
    ("fmla", 0xBFE0FC00, 0x0E400C00),      # fmla v.8h
    ("fmla", 0xBF80F400, 0x0F801000),      # fmla v.4s, v.2d by element
    ("fmla", 0xBFC0F400, 0x0F001000),      # fmla v.8h by element
    # Sums of products
    ("dot", 0x9FE0FC00, 0x0E809400),       # sdot, udot
    ("dot", 0x9FC0F400, 0x0F80E000),       # sdot, udot by element
    ("dot", 0xBFE0FC00, 0x0E809C00),       # usdot
    ("dot", 0xBFC0F400, 0x0F80F000),       # usdot by element
    ("dot", 0xBFC0F400, 0x0F00F000),       # sudot by element
    ("dot", 0xBFE0FC00, 0x2E40FC00),       # bfdot
    ("dot", 0xBFC0F400, 0x0F40F000),       # bfdot by element
    ("dot", 0xBFE0FC00, 0x2EC0FC00),       # bfmlalb, bfmlalt
    ("dot", 0xBFC0F400, 0x0FC0F000),       # bfmlalb, bfmlalt by element
    ("dot", 0xDFE0FC00, 0x4E80A400),       # smmla, ummla
    ("dot", 0xFFE0FC00, 0x4E80AC00),       # usmmla
    ("dot", 0xFFE0FC00, 0x6E40EC00),       # bfmmla
    # One float: arithmetic and comparisons, not moves and conversions
    ("scalar", 0xFF200C00, 0x1E200800),    # fmul, fdiv, fadd, fsub, fmax, fmin, fnmul
    ("scalar", 0xFF200C00, 0x1E200400),    # fccmp
    ("scalar", 0xFF20FC00, 0x1E202000),    # fcmp
    ("scalar", 0xFF3FFC00, 0x1E21C000),    # fsqrt
    ("scalar", 0xFF000000, 0x1F000000),    # fmadd, fmsub, fnmadd, fnmsub
    # Prefetches look like loads
    ("other", 0xFF000000, 0xD8000000),     # prfm of a label
    ("other", 0xFFC00000, 0xF9800000),     # prfm
    ("other", 0xFFE00C00, 0xF8A00800),     # prfm by register
    ("other", 0xFFE00C00, 0xF8800000),     # prfum
    # Memory
    ("load", 0xBE400000, 0x0C400000),      # ld1 to ld4, ld1r
    ("store", 0xBE400000, 0x0C000000),     # st1 to st4
    ("load", 0x3B000000, 0x18000000),      # ldr of a label
    ("load", 0x3A400000, 0x28400000),      # ldp
    ("store", 0x3A400000, 0x28000000),     # stp
    ("load", 0x3FA07C00, 0x08A07C00),      # cas
    ("load", 0xBFA07C00, 0x08207C00),      # casp
    ("load", 0x3F400000, 0x08400000),      # ldxr, ldar
    ("store", 0x3F400000, 0x08000000),     # stxr, stlr
    ("load", 0x3F200C00, 0x38200000),      # atomic updates, ldapr
    ("load", 0xFF200400, 0xF8200400),      # ldraa, ldrab
    ("store", 0x3BC00000, 0x39000000),     # str with an unsigned offset, of a general register ...
    ("store", 0x3BC00000, 0x38000000),     # ... with another address
    ("store", 0xFFC00000, 0x3D800000),     # str of a whole vector
    ("store", 0xFFC00000, 0x3C800000),
    ("load", 0x3A000000, 0x38000000),      # what is left of the single registers
    ("store", 0x3FE00C00, 0x19000000),     # stlur
    ("load", 0x3F200C00, 0x19000000),      # ldapur
    # Jumps
    ("branch", 0x7C000000, 0x14000000),    # b, bl
    ("branch", 0xFF000000, 0x54000000),    # b.eq ...
    ("branch", 0x7C000000, 0x34000000),    # cbz, cbnz, tbz, tbnz
    ("branch", 0xFE000000, 0xD6000000),    # br, blr, ret
)

_ONE = {kind: Counts(**{kind: 1}) for kind in (field.name for field in fields(Counts))}


@cache
def kind_of(word: int) -> str:
    """The field of `Counts` in which the instruction `word` counts."""
    return next((kind for kind, mask, value in TABLE if word & mask == value), "other")


def count(words: Iterable[int]) -> Counts:
    """What instructions that run one after another do."""
    return sum((_ONE[kind_of(word)] for word in words), Counts())


def falls_through(word: int) -> bool:
    """Whether the next instruction in memory can be the one that runs after `word`."""
    jumps = word & 0xFC000000 in (0x14000000, 0x94000000) or word & 0xFE000000 == 0xD6000000
    return not jumps and word & 0xFFE0001F != 0xD4000001    # a system call leaves for the kernel
