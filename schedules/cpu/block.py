"""A block of a schedule, and what its schedule depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import DataType, s_tir, tirx
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

    def placed(self) -> bool:
        """Whether another block's schedule has taken this one into its loops."""
        loops = self.loops()
        return bool(loops) and len(self.sch.get_child_blocks(loops[0])) > 1

    def intermediate(self, func: tirx.PrimFunc) -> bool:
        """Whether no argument of the function is written."""
        return not any(
            region.source.same_as(param) for region in self.stmt.writes for param in func.params)

    def result_bytes(self) -> int:
        """Of a number that it writes."""
        return max(DataType(str(region.source.ty.dtype)).itemsize for region in self.stmt.writes)

    def costly(self) -> bool:
        return self._calls(COSTLY)

    def _calls(self, names: frozenset[str]) -> bool:
        return _holds(
            self.stmt.body,
            lambda node: isinstance(node, Call)
            and str(getattr(node.op, "name", "")).rpartition(".")[2] in names)

    def branches(self) -> bool:
        """Whether it reads under a condition, such as one that pads; vectors cannot do that."""
        return self._calls(frozenset({"if_then_else"}))

    def cheap_to_inline(self) -> bool:
        """Whether computing it again for every reader costs little."""
        readers = [Block(self.sch, rv) for rv in self.sch.get_consumers(self.rv)]
        if self.branches():
            return all(reader.spatial for reader in readers)
        return not self.costly() or (len(readers) == 1 and readers[0].spatial)

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
        return not any(_depends(value, variable) for axis, value in self._bindings()
                       if axis.iter_type == tirx.IterVar.CommReduce)

    def writes_along(self, loop: Any) -> bool:
        """Whether the block writes neighbours along `loop`."""
        axis = self._axis(loop)
        return any(_runs_along(region, axis) for region in self.stmt.writes)

    def reads_along(self, loop: Any) -> bool:
        """Whether the block somewhere reads neighbours along `loop`."""
        axis = self._axis(loop)
        return any(_runs_along(region, axis) for region in self.stmt.reads)

    def reads(self, loop: Any) -> bool:
        """Whether what the block reads depends on `loop` in the last place only."""
        axis = self._axis(loop)
        return any(_varies(region, axis) for region in self.stmt.reads)

    def shares_vectors(self, loop: Any, last: Any) -> bool:
        """Whether what is read in vectors along `last` is the same for all steps of `loop`."""
        axis, along = self._axis(loop), self._axis(last)
        return axis is not None and any(
            _varies(region, along) and not any(_depends(span.min, axis) for span in region.region)
            for region in self.stmt.reads)

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
    return axis is not None and len(region.region) > 0 and _steps_by_one(
        region.region[-1].min, axis)


def _varies(region: Any, axis: Any) -> bool:
    """Whether `axis` is in the region's last place and in no other."""
    places = [axis is not None and _depends(span.min, axis) for span in region.region]
    return bool(places) and places[-1] and not any(places[:-1])


def _steps_by_one(index: Any, axis: Any) -> bool:
    """Whether `index` is `axis` plus or minus something else."""
    if index.same_as(axis):
        return True
    if not isinstance(index, tirx.Add | tirx.Sub):
        return False
    left, right = _depends(index.a, axis), _depends(index.b, axis)
    if left and not right:
        return _steps_by_one(index.a, axis)
    return right and not left and isinstance(index, tirx.Add) and _steps_by_one(index.b, axis)


def _depends(expr: Any, variable: Any) -> bool:
    return _holds(expr, lambda node: isinstance(node, tirx.Var) and node.same_as(variable))


def _holds(node: Any, test: Callable[[Any], bool]) -> bool:
    """Whether any part of the statement or expression passes."""
    def visit(part: Any) -> Any:
        return tvm_ffi.structural.VisitInterrupt(part) if test(part) else None

    return tvm_ffi.structural_walk(node, visit) is not None
