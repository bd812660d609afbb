"""What an instruction set offers to float32 kernels: vector length, registers, register tiles.

A table: a kernel asks for the row of its target and never names a processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import tirx

if TYPE_CHECKING:
    from pocketformer.targets import Target


@dataclass(frozen=True)
class Isa:
    """`tiles` are the GEMM register tiles (rows, columns), from the best to the narrowest.

    `panels` are the widths in which weights may lie, from the best to the narrowest; the
    same for all rows of an `arch`, so that a library for several of them has its weights once.
    `by_lane` says that multiply-add can take one factor from a lane of a register, so that the
    left matrix is best read as vectors; elsewhere one of its numbers is broadcast from memory.
    `rounds` says that there is an instruction that rounds floats to whole numbers.
    `unroll` steps of an inner loop let loads be paired and addresses be advanced once.
    `attention_tile` is (keys, queries) whose scores, and `value_tile` is (queries, columns) whose
    result, is held in registers.
    """

    name: str
    arch: str
    needs: frozenset[str]
    lanes: int
    registers: int
    tiles: tuple[tuple[int, int], ...]
    panels: tuple[int, ...]
    attention_tile: tuple[int, int]
    value_tile: tuple[int, int]
    unroll: int = 1
    by_lane: bool = False
    rounds: bool = True


# A target gets the first row that it satisfies.
TABLE = (
    Isa("avx512", "x86_64", frozenset({"avx512f"}), 16, 32,
        ((8, 48), (12, 32), (16, 16)), (48, 32, 16), (16, 16), (8, 32)),
    Isa("avx2", "x86_64", frozenset({"avx2", "fma"}), 8, 16,
        ((6, 16), (8, 8)), (48, 32, 16), (6, 16), (4, 16)),
    Isa("sse", "x86_64", frozenset(), 4, 16,
        ((4, 8), (4, 4)), (48, 32, 16), (4, 8), (4, 8), rounds=False),
    Isa("neon", "aarch64", frozenset(), 4, 32,
        ((8, 12), (8, 8), (8, 4)), (12, 8, 4), (12, 8), (8, 8), unroll=4, by_lane=True),
    Isa("neon32", "arm", frozenset(), 4, 16,
        ((4, 8), (4, 4)), (8, 4), (4, 8), (4, 8), by_lane=True, rounds=False),
)


def isa_of(target: Target) -> Isa:
    """The row of `target`."""
    return next(isa for isa in TABLE if isa.arch == target.arch and isa.needs <= target.isa)


def isa_named(name: str) -> Isa:
    """The row with this name, as a kernel's name carries it."""
    return next(isa for isa in TABLE if isa.name == name)


def _reduce(intrinsic: str, *arguments: Any, dtype: str = "float32") -> Any:
    return tirx.call_llvm_pure_intrin(dtype, f"llvm.vector.reduce.{intrinsic}", *arguments)


def reduce_add(vector: Any) -> Any:
    """The sum of a float32 vector's lanes (in pairs where the instruction set does so)."""
    return _reduce("fadd", tirx.const(0.0, "float32"), vector)


def reduce_add_integers(vector: Any) -> Any:
    """The sum of an int32 vector's lanes."""
    return _reduce("add", vector, dtype="int32")


def reduce_max_integers(vector: Any) -> Any:
    """The greatest lane of an int32 vector."""
    return _reduce("smax", vector, dtype="int32")


def reduce_max(vector: Any) -> Any:
    """The greatest lane of a float32 vector, of those that are not NaN."""
    return _reduce("fmax", vector)


def reduce_min(vector: Any) -> Any:
    """The least lane of a float32 vector, of those that are not NaN."""
    return _reduce("fmin", vector)
