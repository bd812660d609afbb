"""The order of passes, as a new reader should know it, and the loop that runs them."""

from tvm import relax

from pocketformer import targets
from pocketformer.compiler.pipeline import Step, finish, kernels, run, shared
from pocketformer.compiler.quantization.numbers import CastLayer, Quantization
from pocketformer.compiler.recipe import BFloat16, Float32
from tests.passes.graphs import module

GRAPH_STEPS = [
    "canonicalize", "fold_arithmetic", "fold_quantization", "eliminate_common", "fuse_gelu",
    "fuse_silu", "lower_convolution",
    "fuse_layer_norm", "fuse_rms_norm", "prune_rows", "fuse_attention", "eliminate_common_masks",
    "fuse_linear", "merge_qkv", "fuse_norm", "fuse_quantized",
]
KERNEL_STEPS = [
    "pick_kernels", "lower_composites", "fold_reshapes", "eliminate_common_reshapes",
]
LAST_STEPS = [
    "canonicalize_folded", "dispatch_scan", "lower_quantized", "legalize", "annotate_patterns",
    "fuse_ops", "fuse_tir", "pick_in_place", "schedule_rest", "lower_math", "to_non_dataflow",
    "remove_purity",
    "lower_calls", "pack_memory", "lower_alloc", "free_after_last_use", "lower_builtins",
    "compute_sizes", "lower_shapes", "name_symbols",
]


def test_the_steps_and_their_order():
    for name in ("host", "arm64-android"):
        target = targets.load(name)
        assert [step.name for step in shared(Float32())] == [*GRAPH_STEPS, "store_short"]
        assert [step.name for step in kernels(target)] == KERNEL_STEPS
        assert [step.name for step in finish(target)] == LAST_STEPS


def test_bfloat16_casts_after_fusion():
    steps = [step.name for step in shared(BFloat16())]
    assert steps == [*GRAPH_STEPS, "cast_products", "store_short"]


def test_layers_in_few_bits_come_after_fusion():
    quantization = Quantization({"a linear layer": CastLayer("bfloat16")})
    steps = [step.name for step in shared(Float32(), quantization)]
    assert steps == [*GRAPH_STEPS, "quantize_layers", "store_short"]


def test_watch_sees_every_step_with_its_module():
    before = module({"x": (2, 3)}, {}, relax.op.exp)
    seen = []
    run(
        before,
        [Step("one", lambda mod: mod), Step("two", lambda mod: mod)],
        targets.load("host"),
        lambda name, mod: seen.append((name, mod.same_as(before))),
    )
    assert seen == [("one", True), ("two", True)]
