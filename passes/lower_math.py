"""exp(x), erf(x), tanh(x), …  ->  polynomials, which become vector code where libm would not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, IRModule

from pocketformer.schedules.cpu import math
from pocketformer.schedules.cpu.intrinsics import isa_of
from pocketformer.targets import Target

REPLACEMENTS: dict[str, Callable[[Any], Any]] = {
    "tirx.exp": math.exp,
    "tirx.exp2": math.exp2,
    "tirx.erf": math.erf,
    "tirx.tanh": math.tanh,
    "tirx.sigmoid": math.sigmoid,
    "tirx.sin": math.sin,
    "tirx.cos": math.cos,
}


@dataclass(frozen=True)
class LowerMath:
    """Replace float32 functions that are no instructions of `target` in every PrimFunc.

    Rounding is one of most, but TVM does not know it for one of vectors.
    """

    target: Target

    def __call__(self, mod: IRModule) -> IRModule:
        functions = {
            gvar: self._lowered(func) if isinstance(func, tirx.PrimFunc) else func
            for gvar, func in mod.functions.items()
        }
        return IRModule(functions, attrs=mod.attrs)

    def _lowered(self, func: tirx.PrimFunc) -> tirx.PrimFunc:
        nearest = math.nearest if isa_of(self.target).rounds else math.nearest_by_sum
        known = {**REPLACEMENTS, "tirx.nearbyint": nearest}

        def replace(call: Any) -> Any:
            function = known.get(getattr(call.op, "name", ""))
            if function is None or not str(call.ty).startswith("float32"):
                return call
            return function(call.args[0])

        return func.with_body(tvm_ffi.structural_map(func.body, (Call, replace)))
