"""f(x, y)  ->  f(x, y) whose arguments may begin anywhere in their memory, such as an arena."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir import Var


def with_offsets(func: tirx.PrimFunc, places: Collection[int]) -> tirx.PrimFunc:
    """`func` whose buffer arguments at `places` may begin anywhere in their memory."""
    new: dict[Any, Any] = {}
    for number in places:
        old = func.params[number]
        new[old] = tirx.decl_buffer(
            old.ty.shape,
            old.ty.dtype,
            old.name,
            elem_offset=tirx.Var(f"{old.name}_offset", "int64"),
            offset_factor=1,
            data_alignment=old.ty.data_alignment,
            layout=old.ty.layout,
        )
    params = [new.get(param, param) for param in func.params]
    new |= _views(func, new)
    body = tvm_ffi.structural_map(func.body, (Var, lambda var: new.get(var, var)))
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _views(func: tirx.PrimFunc, moved: Mapping[Any, Any]) -> dict[Any, Any]:
    """What takes the place of the body's views of `moved` arguments as tensors of other dtypes.

    Tensors begin at multiples of a cache line, so that every dtype's elements do.
    """
    found: dict[Any, Any] = {}

    def visit(node: Any) -> None:
        if not isinstance(node, tirx.DeclBuffer):
            return
        view = node.buffer
        for old, home in moved.items():
            if not tvm_ffi.structural_equal(node.data, old.data):
                continue
            begin = home.elem_offset * _bytes(home) // _bytes(view)
            found[view] = tirx.decl_buffer(
                view.ty.shape, view.ty.dtype, view.name, data=home.data,
                elem_offset=begin + view.elem_offset, offset_factor=1,
                data_alignment=view.ty.data_alignment, layout=view.ty.layout,
            )

    tvm_ffi.structural_walk(func.body, visit)
    return found


def _bytes(buffer: Any) -> int:
    """The size of an element."""
    return int(np.dtype(str(buffer.dtype)).itemsize)
