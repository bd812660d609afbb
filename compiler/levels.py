"""The levels of a target on their way through the passes that depend on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.ir import IRModule

from pocketformer.compiler.explain import Explanation
from pocketformer.compiler.folding import Folding
from pocketformer.compiler.manifest_records import Entry, KernelRecord, MemoryRecord, OperatorRecord
from pocketformer.compiler.model import Model
from pocketformer.compiler.pipeline import Step, finish, kernels, run
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.tuning.choices import Choices
from pocketformer.passes.entries import entry_functions
from pocketformer.targets import Target


class Watch:
    """What sees the module after every pass: an explanation, the progress, a folder of dumps."""

    def __init__(
        self, tell: Progress, total: int, dump_ir: str | Path | None, before: int = 0
    ) -> None:
        """`total` passes are to come after `before` that another one saw."""
        self._tell, self._total, self._dump_ir = tell, total, dump_ir
        self._before, self._numbers = before, itertools.count(1)

    def of(self, explanation: Explanation, level: str = "") -> Callable[[str, IRModule], None]:
        """For passes that `explanation` follows, those of a level if it is named."""

        def watch(step: str, mod: IRModule) -> None:
            number = next(self._numbers)
            explanation.watch(step, mod)
            self._tell(f"{step} ({level})" if level else step, number / self._total)
            if self._dump_ir is not None:
                folder = Path(self._dump_ir)
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{self._before + number:03}_{step}" + (f"_{level}" if level else "")
                (folder / f"{name}.py").write_text(mod.script(show_meta=False))

        return watch


@dataclass(frozen=True)
class LevelCode:
    """What the passes made of a model for `target`, which has no levels.

    `weights` are the names of the weights that each entry takes, whether or not the library holds
    them; `operators` tell which kernels run the operators of the source.
    """

    target: Target
    module: IRModule
    entries: tuple[Entry, ...]
    weights: Mapping[str, tuple[str, ...]]
    operators: tuple[OperatorRecord, ...]
    kernels: tuple[KernelRecord, ...]
    memory: tuple[MemoryRecord, ...]

    def same_code(self, other: LevelCode) -> bool:
        """Whether both would do the same, instruction selection aside."""
        return self.weights == other.weights and bool(
            tvm_ffi.structural_equal(self.module, other.module)
        )


class LevelPasses:
    """A level of the target on its way through the passes that depend on it."""

    def __init__(
        self, target: Target, module: IRModule, explanation: Explanation, watch: Watch,
        several: bool, choices: Choices,
    ) -> None:
        self._target, self._module, self._explanation = target, module, explanation
        self._choices = choices
        self._watch = watch.of(explanation, target.level if several else "")

    def pick(self, folding: Folding) -> None:
        """Kernels, and the weights that they read."""
        self._run(kernels(self._target, self._choices.at(self._target.level)))
        self._module = folding.module(self._module)

    def lower(
        self,
        model: Model,
        fixed: Mapping[str, Mapping[str, int]],
        weights: Mapping[str, np.ndarray],
        embed: bool,
    ) -> LevelCode:
        """What machine code is generated from; with `embed` the weights are a part of it."""
        taken = {
            str(func.attrs["global_symbol"]): _weight_names(func)
            for _, func in entry_functions(self._module)
        }
        if embed:
            self._module = _embedded(self._module, weights)
        self._run(finish(self._target, self._choices.traces(self._target.level)))
        calls = [
            replace(record, tuned=told)
            if (told := self._choices.told(self._target.level, record.workload)) else record
            for record in self._explanation.calls.records(model.operators)
        ]
        notes = {record.function: f"tuned: {record.tuned}" for record in calls if record.tuned}
        for function, why in self._explanation.calls.not_tuned.items():
            notes[function] = f"not tuned, although there is a record: {why}"
        return LevelCode(
            target=self._target,
            module=self._module,
            entries=tuple(
                Entry(name, dict(sizes), () if embed else taken[name])
                for name, sizes in fixed.items()
            ),
            weights=taken,
            operators=tuple(
                _with_note(record, notes.get(record.kernel or "", ""))
                for record in self._explanation.records(model.operators)
            ),
            kernels=tuple(calls),
            memory=tuple(self._explanation.calls.memory),
        )

    def _run(self, steps: Iterable[Step]) -> None:
        with self._explanation.listening():
            self._module = run(self._module, steps, self._target, self._watch)


def _with_note(record: OperatorRecord, note: str) -> OperatorRecord:
    return replace(record, note="; ".join(filter(None, (record.note, note))))


def _weight_names(func: relax.Function) -> tuple[str, ...]:
    return tuple(str(param.name) for param in func.params[int(func.attrs["num_input"]) :])


def _embedded(mod: IRModule, weights: Mapping[str, np.ndarray]) -> IRModule:
    """`mod` with the weights as constants of its code."""
    for gvar, func in entry_functions(mod):
        bound = {name: tvm.runtime.tensor(weights[name]) for name in _weight_names(func)}
        mod = relax.transform.BindParams(gvar.name_hint, bound)(mod)
    return mod
