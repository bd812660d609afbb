"""The functions that a model leaves to ScheduleRest, and those among them that can be tuned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.ir import IRModule

from pocketformer.compiler.entries import entries_of
from pocketformer.compiler.folding import Folding
from pocketformer.compiler.kernel_calls import bindings, kernel_of
from pocketformer.compiler.model import Model
from pocketformer.compiler.pipeline import FLOAT, fuse_rest, kernels, run, shared
from pocketformer.compiler.quantization.numbers import Quantization
from pocketformer.compiler.recipe import Recipe
from pocketformer.compiler.tuning.tasks import Task
from pocketformer.passes.entries import entry_functions
from pocketformer.schedules.cpu.block import Block
from pocketformer.schedules.cpu.elementwise import unscheduled
from pocketformer.schedules.cpu.replay import key_of
from pocketformer.schedules.cpu.trace import function_of
from pocketformer.schedules.workloads import Function
from pocketformer.targets import Target


@dataclass(frozen=True)
class Rest:
    """The functions that can be tuned, by the names that they have in the untuned bundle.

    `calls` is how often each is called when every entry of the model runs once.
    """

    named: Mapping[str, Function]
    calls: Mapping[Function, int]

    @property
    def tasks(self) -> list[Task]:
        """A task for each different one, in the order of their names."""
        different = dict.fromkeys(self.named.values())
        return [Task(each, (), self.calls[each]) for each in different if self.calls[each]]

    def taken(self, function: Function, times: Mapping[str, float]) -> float:
        """What its calls take together, where `times` has the functions of a bundle."""
        return sum(times.get(name, 0.0) for name, each in self.named.items() if each == function)


def rest_of(
    model: Model, target: Target, recipe: Recipe, quantization: Quantization = FLOAT
) -> Rest:
    """What of `model` no template of `target`, a single level, computes, and can be tuned."""
    module, _ = entries_of(model)
    module = run(module, [*shared(recipe, quantization), *kernels(target)], target)
    module = run(Folding(model.weights).module(module), fuse_rest(), target)
    named = {
        str(gvar.name_hint): function_of(gvar.name_hint, func, key_of(func))
        for gvar, func in sorted(module.functions.items(), key=lambda item: item[0].name_hint)
        if unscheduled(func) and _can_be_tuned(func)
    }
    calls: Counter[Function] = Counter()
    for _, entry in entry_functions(module):
        for _, value in bindings(entry):
            if (name := kernel_of(value)) in named:
                calls[named[name]] += 1
    return Rest(named, calls)


def _can_be_tuned(func: tirx.PrimFunc) -> bool:
    """Whether there is something to search, which can be measured with any numbers.

    MetaSchedule needs sizes that are known. What does not reduce anything has one schedule in its
    space: all loops as one, over threads in vectors. Whole numbers may be indices, and made-up ones
    would lead out of what they are for.
    """
    for param in func.params:
        kind = param.ty
        if not isinstance(kind, tirx.BufferType) or not str(kind.dtype).startswith("float"):
            return False
        if not all(isinstance(size, tirx.IntImm) for size in kind.shape):
            return False
    try:
        sch = s_tir.Schedule(IRModule({"main": func}))
        blocks = [Block(sch, rv) for rv in sch.get_child_blocks(sch.get_sblock("root"))]
    except (RuntimeError, ValueError):      # it is not made of blocks
        return False
    return any(block.reduction for block in blocks)
