"""Schedules for what no template computes: element-wise chains, gathers, transposes, reductions.

Blocks that only rename or combine elements are inlined; the last axis stays innermost, in vectors
where its size is known and left to LLVM's vectoriser where not; big loops are shared by threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call, IRModule
from tvm.s_tir.schedule import ScheduleError

from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.targets import Target

WORTH_SHARING = 1 << 15    # visits of a block's body, some 3 us of one core at a vector a visit
UNKNOWN = 128              # what a size known only at run time is taken for
COSTLY = frozenset({"exp", "exp2", "exp10", "erf", "tanh", "sigmoid", "log", "log2", "pow", "sin",
                    "cos", "sqrt", "rsqrt"})


@dataclass(frozen=True)
class ScheduleRest:
    """Every PrimFunc that has no schedule yet gets a plain good one, or stays as it is."""

    target: Target

    def __call__(self, mod: IRModule) -> IRModule:
        functions = {
            gvar: schedule(func, self.target) if _unscheduled(func) else func
            for gvar, func in mod.functions.items()
        }
        return IRModule(functions, attrs=mod.attrs)


def schedule_rest(mod: IRModule, target: Target) -> IRModule:
    """`mod` with a default schedule for every PrimFunc that has none yet."""
    return ScheduleRest(target)(mod)


def _unscheduled(func: Any) -> bool:
    return isinstance(func, tirx.PrimFunc) and not func.attrs.get("tirx.is_scheduled", False)


def schedule(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """`func` in a form that runs well on `target`; unchanged where it has no blocks."""
    attrs = func.attrs
    try:
        sch = s_tir.Schedule(IRModule({"main": func}))
        blocks = [Block(sch, rv) for rv in sch.get_child_blocks(sch.get_sblock("root"))]
    except (ScheduleError, ValueError):
        return func
    for block in blocks:
        if block.spatial and block.intermediate(func) and block.cheap_to_inline():
            attempt(sch.compute_inline, block.rv)
    for rv in sch.get_child_blocks(sch.get_sblock("root")):
        block = Block(sch, rv)
        if block.spatial:
            _spread(block, isa_of(target).lanes)
        elif block.reduction:
            _reduce(block, isa_of(target).lanes)
    return sch.mod["main"].with_attrs({**dict(attrs), "tirx.is_scheduled": True})


def attempt(primitive: Callable[..., Any], *arguments: Any) -> bool:
    """Apply a schedule primitive; False, and nothing changed, where it does not fit."""
    try:
        primitive(*arguments)
    except ScheduleError:
        return False
    return True


class Block:
    """A block of a schedule, and what its schedule depends on."""

    def __init__(self, sch: s_tir.Schedule, rv: Any) -> None:
        self.sch, self.rv = sch, rv
        self.stmt = sch.get(rv)
        kinds = [var.iter_type for var in self.stmt.iter_vars]
        nested = _count(self.stmt.body, lambda node: isinstance(node, tirx.For)) > 0
        self.spatial = not nested and all(kind == tirx.IterVar.DataPar for kind in kinds)
        self.reduction = not nested and not self.spatial and all(
            kind in (tirx.IterVar.DataPar, tirx.IterVar.CommReduce) for kind in kinds)

    def intermediate(self, func: tirx.PrimFunc) -> bool:
        """Whether no argument of the function is written."""
        return not any(
            region.source.same_as(param) for region in self.stmt.writes for param in func.params)

    def cheap_to_inline(self) -> bool:
        """Whether computing it again for every reader costs little."""
        return len(self.sch.get_consumers(self.rv)) == 1 or not _count(
            self.stmt.body,
            lambda node: isinstance(node, Call)
            and str(getattr(node.op, "name", "")).rpartition(".")[2] in COSTLY)

    def loops(self) -> list[Any]:
        return list(self.sch.get_loops(self.rv))

    def extent(self, loop: Any) -> int | None:
        extent = self.sch.get(loop).extent
        return int(extent) if isinstance(extent, tirx.IntImm) else None

    def work(self) -> int:
        total = 1
        for loop in self.loops():
            total *= self.extent(loop) or UNKNOWN
        return total

    def is_spatial(self, loop: Any) -> bool:
        """Whether no reduction axis of the block depends on `loop`."""
        variable = self.sch.get(loop).loop_var
        realize = _realize(self.sch, self.rv)
        return not any(
            _count(value, lambda node: isinstance(node, tirx.Var) and node.same_as(variable))
            for value, axis in zip(realize.iter_values, self.stmt.iter_vars, strict=True)
            if axis.iter_type == tirx.IterVar.CommReduce)


def _count(node: Any, test: Callable[[Any], bool]) -> int:
    found = 0

    def visit(part: Any) -> None:
        nonlocal found
        found += bool(test(part))

    tvm_ffi.structural_walk(node, visit)
    return found


def _realize(sch: s_tir.Schedule, rv: Any) -> Any:
    loop = sch.get(sch.get_loops(rv)[-1])
    return loop.body


def _share(block: Block, loops: list[Any]) -> None:
    """Fuse `loops`, which are the outermost, and give them to threads where that pays."""
    if loops:
        outer = block.sch.fuse(*loops)
        if block.work() >= WORTH_SHARING:
            attempt(block.sch.parallel, outer)


def _vectorize(block: Block, loop: Any, lanes: int) -> Any:
    """Cut `loop` into vectors where they fill it; gives the loop over the vectors."""
    extent = block.extent(loop)
    if extent is None or extent % lanes:
        return loop
    outer, inner = block.sch.split(loop, [None, lanes])
    attempt(block.sch.vectorize, inner)
    return outer


def _spread(block: Block, lanes: int) -> None:
    """Element-wise: all loops but the last over threads, the last in vectors."""
    loops = block.loops()
    if not loops:
        return
    while len(loops) > 1 and (block.extent(loops[-1]) or lanes) < lanes:
        loops[-2:] = [block.sch.fuse(*loops[-2:])]
    if len(loops) == 1 and block.work() >= WORTH_SHARING:
        loops = list(block.sch.split(loops[0], [None, 1 << 10]))
    _vectorize(block, loops[-1], lanes)
    _share(block, loops[:-1])


def _reduce(block: Block, lanes: int) -> None:
    """Sums: where neighbours of the result come from neighbours, a vector of them at a time."""
    sch = block.sch
    loops = block.loops()
    free = [loop for loop in loops if block.is_spatial(loop)]
    bound = [loop for loop in loops if not block.is_spatial(loop)]
    if not free or not bound or not attempt(sch.reorder, *free, *bound):
        return
    innermost = free[-1]
    if len(free) > 1 and _contiguous(block, innermost):
        extent = block.extent(innermost)
        width = 4 * lanes if extent is None or extent % lanes == 0 else lanes
        chunk, vector = sch.split(innermost, [None, width])
        if attempt(sch.reorder, chunk, *bound, vector):
            if extent is not None and extent % width == 0:
                inner = sch.split(vector, [None, lanes])[1]
                attempt(sch.vectorize, inner)
            _share(block, free[:-1])
            attempt(sch.decompose_reduction, block.rv, bound[0])
            return
    _share(block, free)
    attempt(sch.decompose_reduction, block.rv, bound[0])


def _contiguous(block: Block, loop: Any) -> bool:
    """Whether the block writes, and somewhere reads, neighbours along `loop`."""
    variable = block.sch.get(loop).loop_var
    realize = _realize(block.sch, block.rv)
    axes = [axis.var for axis, value in zip(
        block.stmt.iter_vars, realize.iter_values, strict=True) if value.same_as(variable)]
    if len(axes) != 1:
        return False

    def last_is_axis(region: Any) -> bool:
        return len(region.region) > 0 and region.region[-1].min.same_as(axes[0])

    return any(map(last_is_axis, block.stmt.writes)) and any(map(last_is_axis, block.stmt.reads))
