"""A recorded trace of TVM's schedule primitives, replayed on a function, whoever wrote the record.

Each primitive checks itself that the function computes what it did. What it does not check is done
here and in primitives.py: what comes out has about as much work, memory and code as what went in,
and threads and vectors share no sums.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from tvm import DataType, s_tir, tirx
from tvm.ir import IRModule

from pocketformer.compiler.errors import BadRecords
from pocketformer.schedules.cpu.primitives import ACTIONS, DECISIONS, FORMS, is_decision, is_known

MOST_TEXT = 24 << 10        # characters; MetaSchedule's traces take 2 to 10 thousand
MOST_STEPS = 400            # MetaSchedule's have some 70
MOST_PARTS = 200            # loops that splits make; MetaSchedule's make some 30
MOST_DEPTH = 64             # of loops; MetaSchedule's are up to some 24 deep
MOST_LANES = 64             # of a vectorised loop, and MetaSchedule's own limit
MOST_UNROLLED = 512         # as well
MOST_WORK = 8               # times as many visits of bodies; windows that overlap are padded twice
MOST_MEMORY = 4             # times the bytes of all buffers
MOST_CODE = 4               # times the text: what several blocks read may be inlined in each
# Loops that run all at once, and within which others TVM cannot build them.
NEVER_WITHIN = {
    tirx.ForKind.PARALLEL: frozenset({tirx.ForKind.PARALLEL, tirx.ForKind.VECTORIZED}),
    tirx.ForKind.VECTORIZED: frozenset({tirx.ForKind.VECTORIZED}),
}


def key_of(func: tirx.PrimFunc) -> str:
    """The sha256 of the text of `func`, which has no schedule, without its name."""
    text = func.without_attr("global_symbol").script(show_meta=False)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=4096)
def trouble(steps: str) -> str:
    """What is wrong with a trace for any function, "" if nothing is."""
    try:
        _read(steps)
    except BadRecords as error:
        return str(error)
    return ""


def replayed(func: tirx.PrimFunc, steps: str) -> tirx.PrimFunc:
    """`func` with the schedule that the trace `steps` describes, as `text_of` writes one.

    Raises BadRecords where it is none for `func`.
    """
    made = replay(func, steps).mod["main"]
    return made.with_attrs({**dict(func.attrs), "tirx.is_scheduled": True})


def replay(func: tirx.PrimFunc, steps: str) -> s_tir.Schedule:
    """The schedule itself. Raises BadRecords where it is none for `func`."""
    instructions, decisions = _read(steps)
    before = _Costs.of(func)
    sch = s_tir.Schedule(IRModule({"main": func}), seed=1, error_render_level="none")
    known: dict[str, Any] = {}
    longest = MOST_CODE * _length(sch)
    for at, instruction in enumerate(instructions):
        _do(sch, at, instruction, decisions.get(at), known)
        if instruction[0] == "ComputeInline":       # which may double an expression, each time
            _require(_length(sch) <= longest, "a trace multiplies the code")
    after = _Costs.of(sch.mod["main"])
    _require(after.work <= MOST_WORK * before.work, "a trace multiplies the work")
    _require(after.memory <= MOST_MEMORY * before.memory, "a trace multiplies the memory")
    return sch


def _do(
    sch: s_tir.Schedule, at: int, instruction: list[Any], decision: Any, known: dict[str, Any]
) -> None:
    """Do the instruction at `at`; `known` has the blocks, loops and numbers by name."""
    kind, inputs, attrs, outputs = instruction
    try:
        made = ACTIONS[kind](sch, [_given(each, known) for each in inputs], attrs, decision)
        made = [] if made is None else made if isinstance(made, list) else [made]
        known.update(zip(outputs, made, strict=True))
    # TVM's errors are RuntimeErrors; an argument of a wrong kind is what Python says it is.
    # Their texts quote the trace and mostly say "not rendered".
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError):
        raise BadRecords(
            f"a trace does not fit the function: {kind}, its instruction {at}") from None


def _given(value: Any, known: dict[str, Any]) -> Any:
    """What an input stands for: a text is quoted, other than a name."""
    if not isinstance(value, str):
        return value
    if value == "None":
        return None
    return json.loads(value) if value.startswith('"') else known[value]


def _length(sch: s_tir.Schedule) -> int:
    return len(sch.mod.script(show_meta=False))


def text_of(trace: s_tir.schedule.Trace) -> str:
    """`trace` with all its decisions, as text."""
    return json.dumps(_plain(trace.as_json()), separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, tirx.IntImm):
        return int(value)
    return float(value.value) if isinstance(value, tirx.FloatImm) else value


def _read(steps: str) -> tuple[list[Any], dict[int, Any]]:
    """The instructions of a trace, and what is decided for samples. Raises BadRecords."""
    _require(len(steps) <= MOST_TEXT, f"a trace has {len(steps)} characters, not {MOST_TEXT}")
    try:
        trace = json.loads(steps)
    except (ValueError, RecursionError):
        raise BadRecords("a trace is no JSON") from None
    form = isinstance(trace, list) and len(trace) == 2 and all(isinstance(x, list) for x in trace)
    _require(form, "a trace is a list of instructions and one of decisions")
    instructions, decisions = trace
    _require(len(instructions) <= MOST_STEPS, f"a trace has more than {MOST_STEPS} instructions")
    for instruction in instructions:
        _check_instruction(instruction)
    parts = sum(len(outputs) for kind, _, _, outputs in instructions if kind == "Split")
    _require(parts <= MOST_PARTS, f"a trace splits into more than {MOST_PARTS} loops")
    sampled = [i for i, (kind, *_) in enumerate(instructions) if kind in DECISIONS]
    form = all(isinstance(each, list) and len(each) == 2 for each in decisions)
    # Else TVM would draw one.
    _require(form and [each[0] for each in decisions] == sampled, "a sample is not decided")
    fits = all(is_decision(instructions[at][0], value) for at, value in decisions)
    _require(fits, "a decision is not as its sample needs")
    return instructions, dict(decisions)


def _check_instruction(instruction: Any) -> None:
    form = isinstance(instruction, list) and len(instruction) == 4
    _require(form, "an instruction of a trace has four parts")
    kind, *parts = instruction
    known = isinstance(kind, str) and kind in FORMS
    _require(known, f"a trace has a {ascii(kind)[:40]}")
    _require(is_known(kind, parts), f"a trace gives {kind} what MetaSchedule never does")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadRecords(otherwise)


@dataclass
class _Costs:
    """What a function costs, counted on its way through its statements."""

    work: int = 0
    memory: int = 0

    @classmethod
    def of(cls, func: tirx.PrimFunc) -> _Costs:
        """Raises BadRecords where sizes are unknown, or loops are none for a processor."""
        costs = cls(memory=sum(_bytes(param.ty) for param in func.params))
        costs.walk(func.body, 1, (), frozenset())
        return costs

    def walk(
        self, stmt: Any, times: int, around: tuple[int, ...], shared: frozenset[tirx.Var]
    ) -> None:
        """Count `stmt`, which runs `times` times in loops of the kinds `around`.

        `shared` has the variables of those that run all at once, and what is made of them.
        """
        match stmt:
            case tirx.For():
                _check_loop(stmt, around)
                if stmt.kind in NEVER_WITHIN:
                    shared |= {stmt.loop_var}
                self.walk(stmt.body, times * int(stmt.extent), (*around, stmt.kind), shared)
            case tirx.SeqStmt():
                for each in stmt.seq:
                    self.walk(each, times, around, shared)
            case s_tir.SBlockRealize():
                block = stmt.block
                self.memory += sum(_bytes(each.ty) for each in block.alloc_buffers)
                self.walk(block.body, times, around, shared | _made_of(shared, stmt))
            case _:
                self.work += times


def _check_loop(loop: tirx.For, around: tuple[int, ...]) -> None:
    _require(isinstance(loop.extent, tirx.IntImm), "a trace makes a loop of unknown length")
    _require(len(around) < MOST_DEPTH, f"a trace nests more than {MOST_DEPTH} loops")
    nested = NEVER_WITHIN.get(loop.kind, frozenset()) & set(around)
    _require(not nested, "a trace nests threads or vectors")
    lanes = int(loop.extent) if loop.kind == tirx.ForKind.VECTORIZED else 1
    _require(lanes <= MOST_LANES, f"a trace makes vectors of {lanes} lanes")
    _require(
        all(0 <= int(value) <= MOST_UNROLLED for value in loop.annotations.values()),
        "a trace unrolls too much",
    )


def _made_of(shared: frozenset[tirx.Var], stmt: s_tir.SBlockRealize) -> frozenset[tirx.Var]:
    """The block's variables that are made of `shared` ones; none of a sum may be."""
    made = set()
    for axis, value in zip(stmt.block.iter_vars, stmt.iter_values, strict=True):
        if shared and _uses(value, shared):
            spatial = axis.iter_type == tirx.IterVar.DataPar
            _require(spatial, "a trace shares a sum among threads or vectors")
            made.add(axis.var)
    return frozenset(made)


def _uses(value: Any, variables: frozenset[tirx.Var]) -> bool:
    used = [value] if isinstance(value, tirx.Var) else tirx.analysis.undefined_vars(value)
    return not variables.isdisjoint(used)


def _bytes(kind: Any) -> int:
    known = all(isinstance(size, tirx.IntImm) for size in kind.shape)
    _require(known, "a trace is for a function of unknown sizes")
    return int(prod(int(size) for size in kind.shape)) * int(DataType(str(kind.dtype)).itemsize)
