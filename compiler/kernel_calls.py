"""Which kernels each entry calls, in order: the source operators behind a call, and its cost."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tvm import relax, tirx
from tvm.ir import GlobalVar, IRModule

from pocketformer.compiler.costs import TEMPLATES, Cost, LoopNest, template_cost
from pocketformer.compiler.manifest_records import KernelRecord, MemoryRecord
from pocketformer.compiler.memory import Scratch, arenas, scratch_of
from pocketformer.compiler.model import Operator
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import dtype, op_name, sources
from pocketformer.passes.pick_kernels import WORKLOAD
from pocketformer.passes.precision import PRECISION
from pocketformer.schedules.cpu.elementwise import NOT_TUNED, TUNED

# What a kernel without a template does, by the words in its name; the first that fits.
KINDS = {
    "conv": "convolution", "matmul": "matmul", "pool": "pooling", "take": "lookup",
    "gather": "lookup", "transpose": "transpose",
}
OTHER = "other"


@dataclass
class Called:
    """A call of the kernel `function`, which computes these operators of the source."""

    function: str
    operators: tuple[str, ...]


@dataclass
class Entry:
    """Follows the operators of one entry function from its variables into kernel calls."""

    calls: list[Called] = field(default_factory=list)
    operators: dict[str, tuple[str, ...]] = field(default_factory=dict)    # by variable
    unfused: dict[str, int] = field(default_factory=dict)

    def read_picked(self, func: relax.Function) -> None:
        """The operators behind each variable; the names of the variables outlive their spans."""
        self.operators = {name: sources(value) for name, value in bindings(func)}

    def read_unfused(self, func: relax.Function) -> None:
        self.unfused = {name: i for i, (name, _) in enumerate(bindings(func))}

    def read_fused(self, mod: IRModule, func: relax.Function) -> None:
        """The calls, once operators are fused: each names the variables that it computes."""
        found = list(bindings(func))
        fused = {
            value.op: [inner for inner, _ in bindings(mod[value.op])]
            for _, value in found if _is_group(value)
        }
        # Groups have names of their own, which other variables may have, too.
        lost = self.unfused.keys() - {name for name, value in found if not _is_group(value)}
        lost -= {inner for group in fused.values() for inner in group}
        # A group's last operator loses its name; groups stand where their last operators stood.
        lasts = deque(sorted(lost, key=self.unfused.__getitem__))
        for name, value in found:
            if _is_group(value):
                last = [lasts.popleft()] if lasts else []
                self._add(value.op.name_hint, [*fused[value.op], *last])
            elif function := kernel_of(value):
                self._add(function, [name])

    def _add(self, function: str, variables: Sequence[str]) -> None:
        names = [each for variable in variables for each in self.operators.get(variable, ())]
        self.calls.append(Called(function, tuple(dict.fromkeys(names))))


def _is_group(value: relax.Expr) -> bool:
    """Whether it is a call of operators that were fused."""
    return isinstance(value, relax.Call) and isinstance(value.op, GlobalVar)


def bindings(func: relax.Function) -> Iterator[tuple[str, relax.Expr]]:
    """Name and value of each binding, in order."""
    for block in func.body.blocks:
        for binding in block.bindings:
            yield binding.var.name, binding.value


def kernel_of(expr: relax.Expr) -> str | None:
    """The function that a call_tir or a call of a library function runs."""
    match op_name(expr):
        case "relax.call_tir":
            return str(expr.args[0].name_hint)
        case "relax.call_dps_packed":
            return str(expr.args[0].global_symbol)
    return None


@dataclass(frozen=True)
class _Found:
    """A call of `function` in `entry`: what it computes, and which record gave it its schedule."""

    entry: str
    function: str
    workload: str = ""
    tuned: str = ""
    cost: Cost = field(default_factory=Cost)
    scratch: Scratch = field(default_factory=Scratch)


class KernelCalls:
    """Watches a compilation for the kernel calls of every entry."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = defaultdict(Entry)
        self._loops: dict[str, LoopNest] = {}
        self._found: list[_Found] = []
        self.memory: list[MemoryRecord] = []    # what the arena of each entry takes
        self.not_tuned: dict[str, str] = {}     # why a function does not follow its record
        self.precision: dict[str, str] = {}     # what a function computes in

    def watch(self, step: str, mod: IRModule) -> None:
        """Read the module at the steps where something is known that is lost later."""
        match step:
            case "canonicalize_folded":
                for name, func in _entries(mod):
                    self.entries[name].read_picked(func)
            case "annotate_patterns":
                for name, func in _entries(mod):
                    self.entries[name].read_unfused(func)
            case "fuse_ops":
                for name, func in _entries(mod):
                    self.entries[name].read_fused(mod, func)
            case "fuse_tir":
                self._read_loops(mod)
            case "lower_calls":
                self._read_calls(mod)
            case "pack_memory":
                self.memory = arenas(mod)

    def records(self, operators: Sequence[Operator]) -> Iterator[KernelRecord]:
        """Every call of every entry, in order; operators by their place in `operators`."""
        places = {operator.name: place for place, operator in enumerate(operators)}
        waiting: dict[tuple[str, str], deque[Called]] = defaultdict(deque)
        for entry, followed in self.entries.items():
            for call in followed.calls:
                waiting[entry, call.function].append(call)
        for found in self._found:
            entry, function, workload = found.entry, found.function, found.workload
            calls = waiting[entry, function]
            names = calls.popleft().operators if calls else ()
            yield KernelRecord(
                entry=entry,
                function=function,
                kernel=function.partition("__")[0] if workload else function,
                kind=_kind(function, workload),
                workload=workload,
                operators=tuple(places[name] for name in names if name in places),
                operations=found.cost.operations,
                bytes=found.cost.bytes,
                scratch=found.scratch.shared,
                thread_scratch=found.scratch.thread,
                tuned=found.tuned,
            )

    def _read_loops(self, mod: IRModule) -> None:
        for gvar, func in mod.functions.items():
            if isinstance(func, tirx.PrimFunc) and WORKLOAD not in func.attrs:
                self._loops[gvar.name_hint] = LoopNest(func)

    def _read_calls(self, mod: IRModule) -> None:
        for entry, func in _entries(mod):
            for _, value in bindings(func):
                if not isinstance(value, relax.Call):
                    continue
                if isinstance(value.op, GlobalVar):
                    self._found.append(self._described(entry, mod[value.op], value))
                elif isinstance(value.op, relax.ExternFunc):
                    name = str(value.op.global_symbol)
                    self.precision[name] = dtype(value.args[-1])
                    self._found.append(_Found(entry, name))

    def _described(self, entry: str, func: tirx.PrimFunc, call: relax.Call) -> _Found:
        name = str(call.op.name_hint)
        workload = str(func.attrs.get(WORKLOAD, ""))
        self.precision[name] = str(func.attrs.get(PRECISION) or self._loops[name].dtype
                                   or dtype(call.args[-1]))
        if NOT_TUNED in func.attrs:
            self.not_tuned[name] = str(func.attrs[NOT_TUNED])
        return _Found(
            entry,
            name,
            workload,
            str(func.attrs.get(TUNED, "")),
            template_cost(_template(workload), call.args)
            if workload else self._loops[name].cost(call.args),
            scratch_of(func, call.args),
        )


def _entries(mod: IRModule) -> Iterator[tuple[str, relax.Function]]:
    for _, func in entry_functions(mod):
        yield str(func.attrs["global_symbol"]), func


def _template(workload: str) -> str:
    return next(kind for kind in TEMPLATES if workload.startswith(f"{kind}_"))


def _kind(function: str, workload: str) -> str:
    if workload:
        return _template(workload)
    return next((kind for word, kind in KINDS.items() if word in function), OTHER)
