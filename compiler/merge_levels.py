"""The modules of all levels -> one library, in which a kernel that several levels run is once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import GlobalVar, IRModule

from pocketformer.compiler.levels import LevelCode
from pocketformer.compiler.link import Linker
from pocketformer.compiler.manifest_records import LevelRecord, TargetRecord
from pocketformer.compiler.object_code import ObjectCode, read_object
from pocketformer.passes.entries import entry_functions

SYMBOL = "global_symbol"
# Small functions of TVM's that compute the machine's shapes.
SHAPES = "shape_func"


@dataclass(frozen=True)
class Library:
    """The levels that differ, under the names that their functions have in one library.

    `module` has the functions of all entries and the kernels of the base, `own` by level the
    kernels that are compiled for a level above it.
    """

    levels: tuple[LevelCode, ...]
    module: IRModule
    own: Mapping[str, IRModule]

    def build(self) -> relax.VMExecutable:
        """Machine code, each level's for its own target."""
        targets = {level.target.level: level.target.tvm() for level in self.levels}
        above = [tvm.tirx.build(kernels, targets[name]) for name, kernels in self.own.items()]
        module = self.module.with_attr("external_mods", above) if above else self.module
        return relax.build(module, self.levels[0].target.tvm(), relax_pipeline=None)

    def records(
        self, objects: Sequence[ObjectCode], weight_bytes: Mapping[str, int]
    ) -> tuple[LevelRecord, ...]:
        """What is known of each level; nothing where there is only the base.

        `objects` are what the library is made of, `weight_bytes` the size of every weight.
        """
        if len(self.levels) == 1:
            return ()
        code = {level.target.level: 0 for level in self.levels}
        for each in objects:
            code[self.level_of(each)] += each.bytes
        seen: set[str] = set()
        records = []
        for level in self.levels:
            name, target = level.target.level, TargetRecord.of(level.target)
            read = {weight for names in level.weights.values() for weight in names}
            kernels = self.own.get(name, self.module if level is self.levels[0] else IRModule())
            records.append(LevelRecord(
                name=name,
                isa=target.isa,
                features=target.features,
                mcpu=target.mcpu,
                vector_bits=target.vector_bits,
                kernels=sum(1 for each, _ in _kernels(kernels) if not each.startswith(SHAPES)),
                code_bytes=code[name],
                weight_bytes=sum(weight_bytes[weight] for weight in read - seen),
            ))
            seen |= read
        return tuple(records)

    def level_of(self, code: ObjectCode) -> str:
        """Whose kernels an object file holds; the base's for one that holds none."""
        for name, kernels in self.own.items():
            if any(f"__tvm_ffi_{kernel}" in code.functions for kernel, _ in _kernels(kernels)):
                return name
        return self.levels[0].target.level


@dataclass(frozen=True)
class LevelLinker:
    """`linker` as the `fcompile` of TVM's `export_library`; `code` is what it linked.

    The base's object file comes first: TVM puts the same helpers (for float16) into every one, the
    first is taken for all, and only the base's run everywhere.
    """

    linker: Linker
    library: Library
    code: list[ObjectCode] = field(default_factory=list)

    def __call__(self, output: str, objects: Sequence[str], **options: object) -> None:
        compiled = {path: read_object(Path(path)) for path in objects if path.endswith(".o")}
        order = [level.target.level for level in self.library.levels]
        self.code.extend(compiled.values())
        self.linker(output, sorted(objects, key=lambda path: (
            order.index(self.library.level_of(compiled[path])) if path in compiled else 0
        )), **options)

    def get_target_triple(self) -> str:
        """Asked by TVM when a model has no kernel that would tell."""
        return self.linker.get_target_triple()


def merge(levels: Sequence[LevelCode]) -> Library:
    """One library of all `levels`, the base first, each of which runs what those before it run.

    A level that does what the one before it does is left out. A kernel that a level before has
    as well is compiled for that one alone.
    """
    kept = [levels[0]]
    kept += [level for before, level in pairwise(levels) if not level.same_code(before)]
    merging = _Merging(kept[0].module)
    named = tuple(merging.add(level) for level in kept[1:])
    base = kept[0]
    if named:
        entries = tuple(replace(entry, level=base.target.level) for entry in base.entries)
        base = replace(base, entries=entries)
    functions = {**base.module.functions, **merging.functions}
    return Library((base, *named), IRModule(functions, attrs=base.module.attrs), merging.own)


class _Merging:
    """Puts one level after the other into a library, which begins as the base alone."""

    def __init__(self, base: IRModule) -> None:
        self.functions: dict[GlobalVar, relax.Function] = {}
        self.own: dict[str, IRModule] = {}
        self._known: dict[tvm_ffi.StructuralKey, GlobalVar | relax.ExternFunc] = {
            _key(func): base.get_global_var(name) for name, func in _kernels(base)
        }

    def add(self, level: LevelCode) -> LevelCode:
        """`level` under the names that its functions have in the library."""
        name = level.target.level
        own: dict[str, tirx.PrimFunc] = {}
        calls: dict[str, GlobalVar | relax.ExternFunc] = {}
        for kernel, func in _kernels(level.module):
            if (key := _key(func)) not in self._known:
                symbol = f"{kernel}__{name}"
                own[symbol] = func.with_attr(SYMBOL, symbol)
                self._known[key] = relax.ExternFunc(symbol)
            calls[kernel] = self._known[key]
        if own:
            self.own[name] = IRModule(own)
        for gvar, func in entry_functions(level.module):
            symbol = f"{gvar.name_hint}__{name}"
            moved = tvm_ffi.structural_map(func, (GlobalVar, lambda old: calls[old.name_hint]))
            self.functions[GlobalVar(symbol)] = moved.with_attr(SYMBOL, symbol)
        names: dict[str | None, str] = {each: _symbol(call) for each, call in calls.items()}
        return replace(
            level,
            entries=tuple(
                replace(entry, function=f"{entry.function}__{name}", level=name)
                for entry in level.entries
            ),
            operators=tuple(
                replace(record, kernel=names.get(record.kernel, record.kernel))
                for record in level.operators
            ),
            kernels=tuple(
                replace(
                    record,
                    entry=f"{record.entry}__{name}",
                    function=names.get(record.function, record.function),
                )
                for record in level.kernels
            ),
            memory=tuple(
                replace(record, entry=f"{record.entry}__{name}") for record in level.memory
            ),
        )


def _kernels(mod: IRModule) -> Iterator[tuple[str, tirx.PrimFunc]]:
    for gvar, func in mod.functions.items():
        if isinstance(func, tirx.PrimFunc):
            yield str(gvar.name_hint), func


def _key(func: tirx.PrimFunc) -> tvm_ffi.StructuralKey:
    """The same for kernels that differ in their names alone."""
    return tvm_ffi.StructuralKey(func.without_attr(SYMBOL))


def _symbol(function: GlobalVar | relax.ExternFunc) -> str:
    if isinstance(function, GlobalVar):
        return str(function.name_hint)
    return str(function.global_symbol)
