"""Schedules for what no template computes: element-wise chains, gathers, transposes, reductions.

Blocks that only rename or combine elements are inlined; the last axis stays innermost, in vectors
where its size is known and left to LLVM's vectoriser where not; big loops are shared by threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.s_tir.schedule import ScheduleError

from pocketformer.compiler.errors import BadRecords
from pocketformer.schedules.cpu.block import UNKNOWN, Block, attempt
from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.schedules.cpu.reduction import reduce_rows, reduce_vectors, split_rows, vector_of
from pocketformer.schedules.cpu.replay import key_of, replayed
from pocketformer.targets import Target

# Attributes of a PrimFunc: which record gave it its schedule, or why one did not.
TUNED, NOT_TUNED = "pocketformer.tuned", "pocketformer.not_tuned"
WORTH_SHARING = 1 << 15    # visits of a block's body: some 3 us of one core at a vector a visit
VECTOR = 16                # bytes: of the shortest vectors
GRAIN = 1 << 10            # numbers that a thread takes at a time from a single long loop


@dataclass(frozen=True)
class ScheduleRest:
    """Every PrimFunc that has no schedule yet gets a plain good one, or stays as it is.

    `traces` tells of recorded ones, by the keys of functions, and in a few words where each is
    from, as the attribute TUNED repeats; where one does not fit, NOT_TUNED says why.
    """

    target: Target
    traces: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __call__(self, mod: IRModule) -> IRModule:
        functions = {
            gvar: self._scheduled(func) if unscheduled(func) else func
            for gvar, func in mod.functions.items()
        }
        return IRModule(functions, attrs=mod.attrs)

    def _scheduled(self, func: tirx.PrimFunc) -> tirx.PrimFunc:
        recorded = self.traces.get(key_of(func)) if self.traces else None
        if recorded is None:
            return schedule(func, self.target)
        steps, told = recorded
        try:
            return replayed(func, steps).with_attr(TUNED, told)
        except BadRecords as error:
            return schedule(func, self.target).with_attr(NOT_TUNED, str(error))


def unscheduled(func: Any) -> bool:
    """Whether `func` is a PrimFunc that is left to ScheduleRest."""
    return isinstance(func, tirx.PrimFunc) and not func.attrs.get("tirx.is_scheduled", False)


def schedule(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """`func` in a form that runs well on `target`; unchanged where it is not made of blocks."""
    lanes = isa_of(target).lanes
    try:
        sch = s_tir.Schedule(IRModule({"main": func}))
        blocks = _blocks(sch)
    except (ScheduleError, ValueError):
        return func
    for block in blocks:
        if block.spatial and block.intermediate(func) and block.cheap_to_inline():
            attempt(sch.compute_inline, block.rv)
    for block in _blocks(sch):
        if block.placed():
            continue
        if block.reduction:
            attempt(_reduce, block, lanes)
        elif block.spatial:
            attempt(_spread, block, lanes)
    return sch.mod["main"].with_attrs({**dict(func.attrs), "tirx.is_scheduled": True})


def _blocks(sch: s_tir.Schedule) -> list[Block]:
    return [Block(sch, rv) for rv in sch.get_child_blocks(sch.get_sblock("root"))]


def _share(block: Block, loops: list[Any]) -> Any:
    """Fuse `loops`, which are the outermost, and give them to threads where that pays."""
    outer = block.sch.fuse(*loops)
    if block.work() >= WORTH_SHARING:
        attempt(block.sch.parallel, outer)
    return outer


def _spread(block: Block, lanes: int) -> None:
    """Element-wise: all loops but the last over threads, the last in vectors."""
    loops = block.loops()
    lanes = max(lanes, VECTOR // block.result_bytes())    # short results fill a vector, too
    if not loops or _transposed(block, loops, lanes):
        return
    while len(loops) > 1 and (block.extent(loops[-1]) or UNKNOWN) < lanes:
        loops[-2:] = [block.sch.fuse(*loops[-2:])]
    if len(loops) == 1 and block.work() >= WORTH_SHARING:
        loops = list(block.sch.split(loops[0], [None, GRAIN]))
    extent = block.extent(loops[-1])
    lanes = vector_of(extent, lanes)
    if extent is not None and extent % lanes == 0:
        vector = block.sch.split(loops[-1], [None, lanes])[1]
        attempt(block.sch.vectorize, vector)
    if len(loops) > 1:
        _share(block, loops[:-1])


def _transposed(block: Block, loops: list[Any], lanes: int) -> bool:
    """Tiles of a vector's length, where neighbours are read along another loop than the last.

    A cache line that is read is used up before it is lost. False where tiles would not fill both.
    """
    last = loops[-1]
    others = [loop for loop in loops[:-1] if block.reads_along(loop)]
    if block.reads_along(last) or len(others) != 1:
        return False
    turned = (others[0], last)
    lengths = [vector_of(block.extent(loop), lanes) for loop in turned]
    if any((block.extent(loop) or 1) % lengths[i] for i, loop in enumerate(turned)):
        return False
    sch, at = block.sch, loops.index(others[0])
    (rows, row), (columns, column) = (
        sch.split(loop, [None, lengths[i]]) for i, loop in enumerate(turned))
    outer = [*loops[:at], rows, *loops[at + 1 : -1], columns]
    sch.reorder(*outer, row, column)
    attempt(sch.vectorize, column)
    _share(block, outer)
    return True


def _reduce(block: Block, lanes: int) -> None:
    """Vectors of results where neighbours come from neighbours, else vectors of terms."""
    loops = block.loops()
    free = [loop for loop in loops if block.is_spatial(loop)]
    bound = [loop for loop in loops if not block.is_spatial(loop)]
    if not free or not bound or not attempt(block.sch.reorder, *free, *bound):
        return
    last, terms = free[-1], block.extent(bound[-1])
    strided = not block.reads_along(last)
    if strided and terms and terms % lanes == 0 and block.reads_along(bound[-1]):
        _share(block, free)
        attempt(reduce_rows, block, bound, lanes)
    elif len(free) > 1 and block.writes_along(last) and block.reads(last):
        outer, rows = split_rows(block, free)
        _share(block, outer)
        reduce_vectors(block, last, bound, rows, lanes)
    else:
        _share(block, free)
        attempt(block.sch.decompose_reduction, block.rv, bound[0])
