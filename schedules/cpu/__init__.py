"""Kernels for processors: `pick` the one for a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketformer.schedules.cpu.attention import FusedAttention
from pocketformer.schedules.cpu.batch_matmul import TiledBatchMatmul
from pocketformer.schedules.cpu.dot_gemm import DotGemm
from pocketformer.schedules.cpu.gemm import Gemm
from pocketformer.schedules.cpu.gemv import Gemv
from pocketformer.schedules.cpu.kernel import Kernel
from pocketformer.schedules.cpu.norm import RowNorm
from pocketformer.schedules.cpu.softmax import RowSoftmax
from pocketformer.schedules.cpu.weight_only import WeightOnly
from pocketformer.schedules.workloads import Workload

if TYPE_CHECKING:
    from pocketformer.targets import Target

__all__ = ["TEMPLATES", "Kernel", "pick"]

# The first whose `matches` holds is taken.
TEMPLATES: tuple[Any, ...] = (
    Gemv,
    Gemm,
    DotGemm,
    WeightOnly,
    FusedAttention,
    RowNorm,
    RowSoftmax,
    TiledBatchMatmul,
)


def pick(workload: Workload, target: Target) -> Kernel:
    """The untuned kernel for `workload`, its PrimFunc named after the kernel.

    Its arguments are the workload's inputs in the order that its docstring gives (a weight packed),
    then its outputs. Raises LookupError if no template matches.
    """
    for template in TEMPLATES:
        if template.matches(workload):
            return template.default(target, workload).kernel(workload, target)
    raise LookupError(f"no kernel computes {workload}")
