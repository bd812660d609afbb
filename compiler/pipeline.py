"""The order of all passes, top to bottom, and the loop that runs them.

`graph` and `precision` run once, and between them it is decided in how many bits layers compute;
then every level of the target runs its own `kernels`, has its weights folded (folding.py) and runs
its own `finish`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.ir import IRModule
from tvm.relax import backend, transform

from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.recipe import BFloat16, Float16, Recipe
from pocketformer.passes.cast_products import CastProducts
from pocketformer.passes.fold_arithmetic import FoldArithmetic
from pocketformer.passes.fold_quantization import FoldQuantization
from pocketformer.passes.fuse_attention import FuseAttention
from pocketformer.passes.fuse_gelu import FuseGelu
from pocketformer.passes.fuse_layer_norm import FuseLayerNorm
from pocketformer.passes.fuse_linear import FuseLinear
from pocketformer.passes.fuse_norm import FuseNorm
from pocketformer.passes.fuse_quantized import FuseQuantized
from pocketformer.passes.fuse_rms_norm import FuseRmsNorm
from pocketformer.passes.fuse_silu import FuseSilu
from pocketformer.passes.lower_composites import LowerComposites
from pocketformer.passes.lower_convolution import LowerConvolution
from pocketformer.passes.lower_math import LowerMath
from pocketformer.passes.lower_quantized import LowerQuantized
from pocketformer.passes.merge_qkv import MergeQkv
from pocketformer.passes.pack_memory import PackMemory
from pocketformer.passes.pick_in_place import PickInPlace
from pocketformer.passes.pick_kernels import PickKernels
from pocketformer.passes.prune_rows import PruneRows
from pocketformer.passes.quantize_layers import QuantizeLayers
from pocketformer.passes.short_weights import Evaluate
from pocketformer.passes.store_short import StoreShort
from pocketformer.schedules.cpu.elementwise import ScheduleRest
from pocketformer.schedules.workloads import Workload
from pocketformer.targets import Target

FLOAT = Quantization()    # of no layer
# Left to the virtual machine, which gives another shape to the same memory.
VIEWS = ["relax.reshape"]

Pass = Callable[[IRModule], IRModule]


@dataclass(frozen=True)
class Step:
    """A pass and the name under which progress, timing and dumps know it."""

    name: str
    run: Pass


def shared(recipe: Recipe, quantization: Quantization = FLOAT) -> Iterator[Step]:
    """`graph` and `precision` where what is decided between them is known already."""
    yield from graph()
    yield from precision(recipe, quantization)


def graph(evaluate: Evaluate | None = None) -> Iterator[Step]:
    """What is true on every target: clean-up and fusion.

    `evaluate` computes what depends on weights only (Folding.evaluate); see FuseQuantized.
    """
    yield Step("canonicalize", transform.CanonicalizeBindings())
    yield Step("fold_arithmetic", FoldArithmetic())
    yield Step("fold_quantization", FoldQuantization())
    yield Step("eliminate_common", transform.EliminateCommonSubexpr())
    yield Step("fuse_gelu", FuseGelu())
    yield Step("fuse_silu", FuseSilu())
    yield Step("lower_convolution", LowerConvolution())
    yield Step("fuse_layer_norm", FuseLayerNorm())
    yield Step("fuse_rms_norm", FuseRmsNorm())
    yield Step("prune_rows", PruneRows())
    yield Step("fuse_attention", FuseAttention())
    yield Step("eliminate_common_masks", transform.EliminateCommonSubexpr())
    yield Step("fuse_linear", FuseLinear())
    yield Step("merge_qkv", MergeQkv())
    yield Step("fuse_norm", FuseNorm())
    yield Step("fuse_quantized", FuseQuantized(evaluate))


def precision(recipe: Recipe, quantization: Quantization = FLOAT) -> Iterator[Step]:
    """Casts of the layers in `quantization` as that says, or else of all products by `recipe`."""
    if quantization.layers:
        yield Step("quantize_layers", QuantizeLayers(quantization.layers))
    elif isinstance(recipe, BFloat16 | Float16):
        yield Step("cast_products", CastProducts(recipe.name))
    yield Step("store_short", StoreShort())


def kernels(target: Target, points: Mapping[Workload, Any] | None = None) -> Iterator[Step]:
    """Our templates for the fused operators, at `points` or else at their default points.

    Fused operators that no template computes become plain ones again.
    """
    yield Step("pick_kernels", PickKernels(target, points or {}))
    yield Step("lower_composites", LowerComposites())
    yield Step("fold_reshapes", FoldArithmetic())
    yield Step("eliminate_common_reshapes", transform.EliminateCommonSubexpr())


def finish(
    target: Target, traces: Mapping[str, tuple[str, str]] | None = None
) -> Iterator[Step]:
    """The rest: element-wise chains, schedules for them, then the virtual machine's code.

    `traces` are recorded schedules; see ScheduleRest.
    """
    yield from fuse_rest()
    yield Step("schedule_rest", ScheduleRest(target, traces or {}))
    yield Step("lower_math", LowerMath(target))
    yield Step("to_non_dataflow", transform.ToNonDataflow())
    yield Step("remove_purity", transform.RemovePurityChecking())
    yield Step("lower_calls", transform.CallTIRRewrite())
    yield Step("pack_memory", PackMemory())
    yield from machine_code()


def fuse_rest() -> Iterator[Step]:
    """What no template computes becomes functions without a schedule, as few as can be."""
    yield Step("canonicalize_folded", transform.CanonicalizeBindings())
    yield Step("dispatch_scan", backend.DispatchSortScan())
    yield Step("lower_quantized", LowerQuantized())
    yield Step("legalize", transform.LegalizeOps(skip_ops=VIEWS))
    yield Step("annotate_patterns", transform.AnnotateTIROpPattern())
    yield Step("fuse_ops", transform.FuseOps())
    yield Step("fuse_tir", transform.FuseTIR())
    yield Step("pick_in_place", PickInPlace())


def machine_code() -> Iterator[Step]:
    """From calls that write into memory which is there to the virtual machine's code."""
    yield Step("lower_alloc", transform.LowerAllocTensor())
    yield Step("free_after_last_use", transform.KillAfterLastUse())
    yield Step("lower_builtins", transform.LowerRuntimeBuiltin())
    yield Step("compute_sizes", transform.ComputePrimValue())
    yield Step("lower_shapes", transform.VMShapeLower())
    yield Step("name_symbols", transform.AttachGlobalSymbol())


def run(
    mod: IRModule,
    steps: Iterable[Step],
    target: Target,
    watch: Callable[[str, IRModule], None] | None = None,
) -> IRModule:
    """Apply `steps` in order; `watch` sees every step's name and the module that it gave."""
    with target.tvm(), tvm.transform.PassContext(opt_level=3):
        for step in steps:
            mod = step.run(mod)
            if watch:
                watch(step.name, mod)
    return mod
