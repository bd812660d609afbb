"""Asks for weights ahead of their use.

By default in kernels that read part of a panel, so with gaps: processors guess less well what comes
next there. TVM's own prefetch does not compile.
"""

from __future__ import annotations

from typing import Any

from tvm import DataType, tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.kernel import Buffer, Expr

STEPS = 16    # of k from a load to what is asked for: 3 KiB of a panel of 48 words
LINE = 64     # bytes that one request brings
LLVM = """
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
define linkonce_odr i32 @pocketformer_prefetch(ptr %p, i32 %bytes) alwaysinline {
  %ahead = getelementptr i8, ptr %p, i32 %bytes
  call void @llvm.prefetch.p0(ptr %ahead, i32 0, i32 3, i32 1)
  ret i32 0
}
"""


def usual(columns: int, panel: int) -> int:
    """How many steps of k ahead a kernel of `columns` of a panel asks by default; 0: not at all."""
    return STEPS if columns != panel else 0


def prefetch(
    weight: Buffer, panel: Expr, k: Expr, column: Any, columns: int, steps: int
) -> None:
    """Bring into the first cache what lies `steps` steps of k behind `weight[panel, k, column]`,
    and behind the rest of its `columns`.

    The kernel must import `LLVM`.
    """
    size = int(DataType(weight.dtype).itemsize)
    for at in range(0, columns, LINE // size):
        place = T.address_of(weight[panel, k, column + at if at else column])
        ahead = steps * int(weight.shape[2]) * size
        T.evaluate(tirx.call_extern("int32", "pocketformer_prefetch", place, ahead))
