"""Kernels for processors: `pick` the one for a workload, of a point of its template's space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketformer.schedules.cpu.attention import FusedAttention
from pocketformer.schedules.cpu.batch_matmul import TiledBatchMatmul
from pocketformer.schedules.cpu.dot_gemm import DotGemm
from pocketformer.schedules.cpu.gemm import Gemm
from pocketformer.schedules.cpu.gemv import Gemv
from pocketformer.schedules.cpu.kernel import Kernel
from pocketformer.schedules.cpu.lookup import RowLookup
from pocketformer.schedules.cpu.norm import RowNorm
from pocketformer.schedules.cpu.quantized_matmul import QuantizedBatchMatmul
from pocketformer.schedules.cpu.softmax import RowSoftmax
from pocketformer.schedules.cpu.trace import Trace
from pocketformer.schedules.cpu.weight_only import WeightOnly
from pocketformer.schedules.workloads import Workload

if TYPE_CHECKING:
    from pocketformer.targets import Target

__all__ = ["TEMPLATES", "Kernel", "pick", "template_of"]

# The first whose `matches` holds is taken.
TEMPLATES: tuple[Any, ...] = (
    Gemv,
    Gemm,
    DotGemm,
    WeightOnly,
    FusedAttention,
    RowNorm,
    RowSoftmax,
    RowLookup,
    TiledBatchMatmul,
    QuantizedBatchMatmul,
    Trace,
)


def template_of(workload: Workload) -> Any:
    """The template (a class) whose points compute `workload`; LookupError if there is none."""
    for template in TEMPLATES:
        if template.matches(workload):
            return template
    raise LookupError(f"no kernel computes {workload}")


def pick(workload: Workload, target: Target, point: Any = None) -> Kernel:
    """The kernel of `point`, or the untuned one, for `workload`; its PrimFunc has its name.

    `point` is one of `template_of(workload).space(target, workload)`. The arguments are the
    workload's inputs in the order that its docstring gives (a weight packed), then its outputs.
    Raises LookupError if no template matches.
    """
    kernel: Kernel = (point or template_of(workload).default(target, workload)).kernel(
        workload, target)
    return kernel
