"""How much memory a run takes: an entry's arena, and what each kernel needs while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax, s_tir, tirx
from tvm.ir import IRModule

from pocketformer.compiler.costs import analyzer_of, formula, number, product, put, sizes_of, total
from pocketformer.compiler.manifest_records import MemoryRecord
from pocketformer.compiler.model import Axis
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Size, op_name
from pocketformer.schedules.cpu.kernel import STACK


@dataclass(frozen=True)
class Scratch:
    """Bytes that a kernel takes while it runs, once and on every thread that works on it."""

    shared: Axis | None = None
    thread: Axis | None = None


def arenas(mod: IRModule) -> list[MemoryRecord]:
    """Of every entry the bytes of its arena; runs on a module whose memory is packed."""
    records = []
    for _, func in entry_functions(mod):
        sizes = [
            number(binding.value.args[0].values[0])
            for block in func.body.blocks
            for binding in block.bindings
            if op_name(binding.value) == "relax.memory.alloc_storage"
        ]
        records.append(MemoryRecord(str(func.attrs["global_symbol"]), formula(total(sizes))))
    return records


def scratch_of(func: tirx.PrimFunc, args: Sequence[relax.Expr]) -> Scratch:
    """What a call of `func` takes at most beside its arguments; buffers on the stack do not count.

    TVM may let buffers of different loops share memory, and rounds each up to a page.
    """
    sizes = sizes_of(func.params, args)
    shared, thread = _need(func.body)
    return Scratch(*(formula(put(size, sizes)) for size in (shared, thread)))


def _need(stmt: Any) -> tuple[Size, Size]:
    """What runs beside each other takes together, what runs in turns the most of it."""
    match stmt:
        case tirx.SeqStmt():
            own = [_buffer(each.buffer) for each in stmt.seq if isinstance(each, tirx.AllocBuffer)]
            shared, thread = _most([_need(each) for each in stmt.seq])
            return total([*own, shared]), thread
        case tirx.For() if stmt.kind == tirx.ForKind.PARALLEL:
            return 0, total(list(_need(stmt.body)))
        case tirx.For() | tirx.AttrStmt():
            return _need(stmt.body)
        case s_tir.SBlockRealize():
            own = [_buffer(buffer) for buffer in stmt.block.alloc_buffers]
            shared, thread = _need(stmt.block.body)
            return total([*own, shared]), thread
        case tirx.IfThenElse():
            return _most([_need(part) for part in (stmt.then_case, stmt.else_case) if part])
    return 0, 0


def _most(needs: Sequence[tuple[Size, Size]]) -> tuple[Size, Size]:
    shared, thread = (_largest([need[i] for need in needs]) for i in (0, 1))
    return shared, thread


def _largest(sizes: Sequence[Size]) -> Size:
    largest: Size = 0
    for size in sizes:
        if isinstance(size, int) and isinstance(largest, int):
            largest = max(size, largest)
        else:
            largest = analyzer_of(size, largest).simplify(tirx.max(size, largest))
    return number(largest)


def _buffer(buffer: Any) -> Size:
    size = product([*buffer.ty.shape, np.dtype(str(buffer.ty.dtype.dtype)).itemsize])
    on_stack = str(buffer.ty.storage_scope) != "local" and isinstance(size, int) and size < STACK
    return 0 if on_stack else size
