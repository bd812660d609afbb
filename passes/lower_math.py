"""exp(x), erf(x), tanh(x), …  ->  polynomials, which become vector code where libm would not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, IRModule

from pocketformer.schedules.cpu import math

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
    """Replace float32 transcendental functions in every PrimFunc."""

    def __call__(self, mod: IRModule) -> IRModule:
        functions = {
            gvar: _lowered(func) if isinstance(func, tirx.PrimFunc) else func
            for gvar, func in mod.functions.items()
        }
        return IRModule(functions, attrs=mod.attrs)


def _lowered(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.with_body(tvm_ffi.structural_map(func.body, (Call, _replace)))


def _replace(call: Any) -> Any:
    function = REPLACEMENTS.get(getattr(call.op, "name", ""))
    if function is None or not str(call.ty).startswith("float32"):
        return call
    return function(call.args[0])
