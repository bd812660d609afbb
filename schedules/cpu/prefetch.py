"""Asks for weights ahead of their use, in kernels that read part of a panel, so with gaps.

Processors guess less well what comes next there. TVM's own prefetch does not compile.
"""

from __future__ import annotations

from typing import Any

from tvm import DataType, tirx
from tvm.tirx.script.builder import ir as T

from pocketformer.schedules.cpu.kernel import Buffer, Expr

STEPS = 16    # of k from a load to what is asked for: 3 KiB of a panel of 48 words
LLVM = """
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
define linkonce_odr i32 @pocketformer_prefetch(ptr %p, i32 %bytes) alwaysinline {
  %ahead = getelementptr i8, ptr %p, i32 %bytes
  call void @llvm.prefetch.p0(ptr %ahead, i32 0, i32 3, i32 1)
  ret i32 0
}
"""


def prefetch(weight: Buffer, panel: Expr, k: Expr, column: Any) -> None:
    """Bring into the first cache what lies `STEPS` steps of k behind `weight[panel, k, column]`.

    The kernel must import `LLVM`.
    """
    place = T.address_of(weight[panel, k, column])
    ahead = STEPS * int(weight.shape[2]) * int(DataType(weight.dtype).itemsize)
    T.evaluate(tirx.call_extern("int32", "pocketformer_prefetch", place, ahead))
