"""A block of a schedule, and what its schedule depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Call
from tvm.s_tir.schedule import ScheduleError

UNKNOWN = 128              # what a size known only at run time is taken for
COSTLY = frozenset({"exp", "exp2", "exp10", "erf", "tanh", "sigmoid", "log", "log2", "pow", "sin",
                    "cos", "sqrt", "rsqrt"})


def attempt(primitive: Callable[..., Any], *arguments: Any) -> bool:
    """Apply a schedule primitive, or a function of several; False from the first that does not fit.

    That one changes nothing, so the schedule stays valid.
    """
    try:
        primitive(*arguments)
    except ScheduleError:
        return False
    return True


class Block:
    """A block in `sch`, without blocks inside."""

    def __init__(self, sch: s_tir.Schedule, rv: Any) -> None:
        self.sch, self.rv = sch, rv
        self.stmt = sch.get(rv)
        kinds = [axis.iter_type for axis in self.stmt.iter_vars]
        looped = _holds(self.stmt.body, lambda node: isinstance(node, tirx.For))
        self.spatial = not looped and all(kind == tirx.IterVar.DataPar for kind in kinds)
        self.reduction = not looped and not self.spatial and self.stmt.init is not None and all(
            kind in (tirx.IterVar.DataPar, tirx.IterVar.CommReduce) for kind in kinds)

    def gone(self) -> bool:
        """Whether another block's schedule has already placed this one."""
        return len(self.loops()) != len(self.stmt.iter_vars)

    def intermediate(self, func: tirx.PrimFunc) -> bool:
        """Whether no argument of the function is written."""
        return not any(
            region.source.same_as(param) for region in self.stmt.writes for param in func.params)

    def costly(self) -> bool:
        return _holds(
            self.stmt.body,
            lambda node: isinstance(node, Call)
            and str(getattr(node.op, "name", "")).rpartition(".")[2] in COSTLY)

    def cheap_to_inline(self) -> bool:
        """Whether computing it again for every reader costs little."""
        if not self.costly():
            return True
        readers = [Block(self.sch, rv) for rv in self.sch.get_consumers(self.rv)]
        return len(readers) == 1 and readers[0].spatial

    def loops(self) -> list[Any]:
        return list(self.sch.get_loops(self.rv))

    def extent(self, loop: Any) -> int | None:
        extent = self.sch.get(loop).extent
        return int(extent) if isinstance(extent, tirx.IntImm) else None

    def work(self) -> int:
        """How often its body is visited, about."""
        total = 1
        for loop in self.loops():
            total *= self.extent(loop) or UNKNOWN
        return total

    def is_spatial(self, loop: Any) -> bool:
        """Whether no reduction axis of the block depends on `loop`."""
        variable = self.sch.get(loop).loop_var
        return not any(
            _holds(value, lambda node: isinstance(node, tirx.Var) and node.same_as(variable))
            for axis, value in self._bindings()
            if axis.iter_type == tirx.IterVar.CommReduce)

    def contiguous(self, loop: Any) -> bool:
        """Whether the block writes, and somewhere reads, neighbours along `loop`."""
        axis = self._axis(loop)
        return any(_runs_along(region, axis) for region in self.stmt.writes) and any(
            _runs_along(region, axis) for region in self.stmt.reads)

    def reads_along(self, loop: Any) -> bool:
        """Whether the block somewhere reads neighbours along `loop`."""
        axis = self._axis(loop)
        return any(_runs_along(region, axis) for region in self.stmt.reads)

    def spatial_reader(self) -> Any:
        """The only block that reads this one's result, if it is element-wise; else None."""
        readers = self.sch.get_consumers(self.rv)
        return readers[0] if len(readers) == 1 and Block(self.sch, readers[0]).spatial else None

    def _bindings(self) -> list[tuple[Any, Any]]:
        """Every axis of the block and its value."""
        realize = self.sch.get(self.sch.get_loops(self.rv)[-1]).body
        return list(zip(self.stmt.iter_vars, realize.iter_values, strict=True))

    def _axis(self, loop: Any) -> Any:
        variable = self.sch.get(loop).loop_var
        axes = [axis.var for axis, value in self._bindings() if value.same_as(variable)]
        return axes[0] if len(axes) == 1 else None


def _runs_along(region: Any, axis: Any) -> bool:
    return axis is not None and len(region.region) > 0 and region.region[-1].min.same_as(axis)


def _holds(node: Any, test: Callable[[Any], bool]) -> bool:
    """Whether any part of the statement or expression passes."""
    def visit(part: Any) -> Any:
        return tvm_ffi.structural.VisitInterrupt(part) if test(part) else None

    return tvm_ffi.structural_walk(node, visit) is not None
