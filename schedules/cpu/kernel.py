"""A kernel, and a few words for writing one with TVM's builder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import DataType, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

Expr = Any
Buffer = Any

STACK = 1024     # bytes; a buffer of so many or more is not put on the stack
# TVM's operator kind "opaque": no pass may fuse anything into a kernel.
_OPAQUE = 8


@dataclass(frozen=True)
class Kernel:
    """A finished PrimFunc; `pack` turns a weight [k, n] into the `packed_shape` that it reads.

    So does `pack_scale` with the scales of weights that have some, the argument after them.
    """

    name: str
    func: tirx.PrimFunc
    pack: Callable[[Any], Any] | None = None
    packed_shape: tuple[int, ...] | None = None
    pack_scale: Callable[[Any], Any] | None = None


class Builder:
    """Collects a PrimFunc: arguments in order, symbolic sizes by name."""

    def __init__(self) -> None:
        self._sizes: dict[str, tirx.Var] = {}
        self.func: Any = None

    def size(self, name: str, value: int | None) -> Any:
        """`value`, or where it is None the variable `name`, one for all its uses."""
        if value is not None:
            return value
        return self._sizes.setdefault(name, tirx.Var(name, "int64"))

    def argument(self, name: str, shape: Sequence[Any], dtype: str = "float32") -> Buffer:
        """The next argument of the function."""
        sizes = [tirx.IntImm("int64", s) if isinstance(s, int) else s for s in shape]
        return T.arg(name, T.buffer(sizes, dtype))


@contextmanager
def prim_func(name: str) -> Iterator[Builder]:
    """Build a PrimFunc in the `with` body; afterwards it is the builder's `func`."""
    builder = Builder()
    with IRBuilder() as ir_builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({
                "tirx.noalias": True, "op_pattern": _OPAQUE, "tirx.is_scheduled": True})
            yield builder
        builder.func = ir_builder.get()


@contextmanager
def imported(text: str) -> Iterator[None]:
    """The body may call the functions of an LLVM module, by its text; none where that is empty."""
    if text:
        with T.attr("llvm", "pragma_import_llvm", text):
            yield
    else:
        yield


def registers(*shape: int, dtype: str = "float32") -> Buffer:
    """A small buffer: on the stack, or in registers where every index is a constant.

    TVM puts buffers below a size on the stack only in the scope "global". All others, even "local"
    ones, come from its workspace, page-aligned: then stores to one and loads from another share the
    low bits of their addresses, and the processor takes them for dependent.

    TVM lets buffers share memory when one is dead before the other lives. One with a computed index
    must therefore be made outside the loops that use it, or it drags others out of the registers.
    """
    assert prod(shape) * DataType(dtype).itemsize < STACK, shape
    return T.alloc_buffer(shape, dtype, scope="global")


class Tile:
    """`rows` x `columns` registers, in buffers of up to `PIECE` columns."""

    PIECE = 128     # a multiple of every vector's length

    def __init__(self, rows: int, columns: int, dtype: str = "float32") -> None:
        widths = [min(self.PIECE, columns - at) for at in range(0, columns, self.PIECE)]
        self._rows = [[registers(width, dtype=dtype) for width in widths] for _ in range(rows)]

    def load(self, row: int, column: int, lanes: int) -> Expr:
        return load(self._rows[row][column // self.PIECE], column % self.PIECE, lanes=lanes)

    def store(self, value: Expr, row: int, column: int) -> None:
        store(self._rows[row][column // self.PIECE], value, column % self.PIECE)

    def add(self, value: Expr, row: int, column: int) -> None:
        self.store(self.load(row, column, lanes_of(value)) + value, row, column)


def workspace(*shape: Any, dtype: str = "float32") -> Buffer:
    """A buffer in memory, of one thread where it is made inside a parallel loop."""
    return T.alloc_buffer(shape, dtype, scope="local")


def load(buffer: Buffer, *index: Any, lanes: int) -> Expr:
    """`lanes` neighbours along the last axis."""
    if lanes == 1:
        return buffer[index]
    return buffer[index[:-1] + (T.ramp(index[-1], 1, lanes),)]    # noqa: RUF005 (Python 3.10)


def store(buffer: Buffer, value: Expr, *index: Any) -> None:
    """Write a scalar, or a vector along the last axis."""
    lanes = lanes_of(value)
    last = T.ramp(index[-1], 1, lanes) if lanes > 1 else index[-1]
    T.buffer_store(buffer, value, [*index[:-1], last])


def lanes_of(value: Expr) -> int:
    """1 for a scalar."""
    return int(str(value.ty).partition("x")[2] or 1)


def typed(dtype: str, lanes: int) -> str:
    """The type of so many numbers of `dtype`."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def splat(value: Expr | float, lanes: int) -> Expr:
    """`value` in every lane."""
    if isinstance(value, float | int):
        value = T.float32(float(value))
    return T.broadcast(value, lanes) if lanes > 1 else value


@contextmanager
def when(condition: Any) -> Iterator[None]:
    """The body runs where `condition` holds; a Python True adds no test."""
    if condition is True:
        yield
    else:
        with T.If(condition), T.Then():
            yield


def ceil_div(a: Any, b: int) -> Any:
    """a / b rounded up, for numbers and expressions."""
    return (a + (b - 1)) // b


def loop(extent: Any) -> Any:
    """A serial loop."""
    return T.serial(extent)


def parallel_loop(extent: Any, worthwhile: bool) -> Any:
    """A loop over threads, or a serial one where the work is too little to share."""
    return T.parallel(extent) if worthwhile else T.serial(extent)


def transpose(rows: list[Expr]) -> list[Expr]:
    """Vectors of as many lanes as there are, transposed in registers, in log2(lanes) rounds."""
    lanes = len(rows)
    vectors = [T.bind(row) for row in rows]
    distance = 1
    while distance < lanes:
        swapped = list(vectors)
        for i in range(lanes):
            if i & distance:
                continue
            low, high = vectors[i], vectors[i + distance]
            take = [lane for lane in range(lanes)]
            first = [x if not x & distance else lanes + x - distance for x in take]
            second = [x + distance if not x & distance else lanes + x for x in take]
            swapped[i] = T.bind(tirx.Shuffle([low, high], first))
            swapped[i + distance] = T.bind(tirx.Shuffle([low, high], second))
        vectors = swapped
        distance *= 2
    return vectors
