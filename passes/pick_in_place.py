"""Marks the arguments of element-wise functions that are read only where the result is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import IRModule, TensorLoad

from pocketformer.passes.pack_memory import IN_PLACE


class PickInPlace:
    """Every function without a schedule tells which arguments' memory its result may take over.

    Where each element of the result is computed from the same element of an argument, and from no
    other of it, the one may replace the other: a store cannot come before the load that it needs.
    """

    def __call__(self, mod: IRModule) -> IRModule:
        functions = {
            gvar: _marked(func) if isinstance(func, tirx.PrimFunc) else func
            for gvar, func in mod.functions.items()
        }
        return IRModule(functions, attrs=mod.attrs)


def _marked(func: tirx.PrimFunc) -> tirx.PrimFunc:
    scheduled = (func.attrs or {}).get("tirx.is_scheduled", False)
    if scheduled or not func.params or not _is_buffer(func.params[-1]):
        return func
    result = func.params[-1]
    written, late = _order(func, result)
    if any(param in written for param in func.params[:-1]):
        return func     # it has several results, and they may not take each other's arguments
    moved = _moved(func, result) | late
    own = [buffer for buffer in moved if _alike(buffer, result) and buffer not in func.params]
    places = [
        number for number, param in enumerate(func.params[:-1])
        if not own and _alike(param, result) and param not in moved
    ]    # fmt: skip
    return func.with_attr(IN_PLACE, places) if places else func


def _moved(func: tirx.PrimFunc, result: Any) -> set[Any]:
    """The buffers that are read anywhere but at the place that is being computed from them."""
    moved: set[Any] = set()
    seen: Counter[Any] = Counter()

    def visit(node: Any) -> None:
        if not isinstance(node, s_tir.SBlock) or not node.iter_vars:
            return
        axes = [axis.var for axis in node.iter_vars]
        kept = all(
            _alike(target.source, result) and _same(axes, [part.min for part in target.region])
            for target in node.writes
        )
        for load in _loads(node.body):
            seen[load.source] += 1
            if not (kept and _same(axes, load.indices)):
                moved.add(load.source)

    tvm_ffi.structural_walk(func.body, visit)
    # What is read outside such blocks, as a scan does, may be read anywhere.
    every = Counter(load.source for load in _loads(func.body))
    return moved | {buffer for buffer, times in every.items() if times != seen[buffer]}


def _order(func: tirx.PrimFunc, result: Any) -> tuple[set[Any], set[Any]]:
    """The buffers that are written, and those that are read after the result was."""
    written: set[Any] = set()
    late: set[Any] = set()

    def visit(node: Any) -> None:
        match node:
            case tirx.BufferStore():    # visited after the loads in it
                written.add(node.buffer)
            case TensorLoad() if result in written:
                late.add(node.source)
            case s_tir.SBlock():
                written.update(target.source for target in node.writes)

    tvm_ffi.structural_walk(func.body, visit)
    return written, late


def _loads(stmt: Any) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, TensorLoad):
            found.append(node)

    tvm_ffi.structural_walk(stmt, visit)
    return found


def _same(axes: Sequence[Any], places: Sequence[Any]) -> bool:
    return len(axes) == len(places) and all(
        axis.same_as(place) for axis, place in zip(axes, places, strict=True)
    )


def _is_buffer(param: Any) -> bool:
    return isinstance(param.ty, tirx.BufferType)


def _alike(left: Any, right: Any) -> bool:
    """Whether both are buffers of one shape and element type."""
    if not _is_buffer(left) or not _is_buffer(right) or str(left.ty.dtype) != str(right.ty.dtype):
        return False
    return list(map(str, left.ty.shape)) == list(map(str, right.ty.shape))
