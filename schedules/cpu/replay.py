"""A recorded trace of TVM's schedule primitives, replayed on a function, whoever wrote the record.

Each primitive checks itself that the function computes what it did. What it does not check is done
here: only those that MetaSchedule uses on processors are known, none of which can bring in foreign
code, and what comes out has about as much work, memory and code as what went in.
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

MOST_TEXT = 24 << 10        # characters; MetaSchedule's traces take 2 to 10 thousand
MOST_LANES = 64             # of a vectorised loop, and MetaSchedule's own limit
MOST_UNROLLED = 512         # as well
MOST_WORK = 8               # times as many visits of bodies; windows that overlap are padded twice
MOST_MEMORY = 4             # times the bytes of all buffers
SAMPLES = frozenset({"SamplePerfectTile", "SampleCategorical", "SampleComputeLocation"})
PRIMITIVES = SAMPLES | {
    "AddUnitLoop", "Annotate", "CacheRead", "CacheWrite", "ComputeAt", "ComputeInline",
    "DecomposeReduction", "EnterPostproc", "Fuse", "GetChildBlocks", "GetConsumers", "GetLoops",
    "GetOutputBlocks", "GetProducers", "GetSBlock", "Parallel", "RFactor", "Reorder",
    "ReverseComputeAt", "ReverseComputeInline", "Split", "Unannotate", "Vectorize",
}
UNROLL = frozenset({"pragma_auto_unroll_max_step", "pragma_unroll_explicit"})
# Notes of MetaSchedule to itself, which nothing else reads.
NOTES = frozenset({
    "meta_schedule.parallel", "meta_schedule.vectorize", "meta_schedule.unroll_explicit",
    "meta_schedule.unroll_implicit", "meta_schedule.tiling_structure",
    "meta_schedule.random_compute_producer",
})


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
    trace = _read(steps)
    try:
        sch = s_tir.Schedule(IRModule({"main": func}), seed=1, error_render_level="none")
        s_tir.schedule.Trace.apply_json_to_schedule(trace, sch)
    # TVM's errors are RuntimeErrors; an argument of a wrong kind is what Python says it is.
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadRecords(f"the trace does not fit the function: {first}") from None
    _check(func, sch.mod["main"])
    return sch


def text_of(trace: s_tir.schedule.Trace) -> str:
    """`trace` with all its decisions, as text."""
    return json.dumps(_plain(trace.as_json()), separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, tirx.IntImm):
        return int(value)
    return float(value.value) if isinstance(value, tirx.FloatImm) else value


def _read(steps: str) -> list[Any]:
    """The instructions and the decisions of a trace. Raises BadRecords."""
    _require(len(steps) <= MOST_TEXT, f"a trace has {len(steps)} characters, not {MOST_TEXT}")
    try:
        trace = json.loads(steps)
    except (ValueError, RecursionError):
        raise BadRecords("a trace is no JSON") from None
    form = isinstance(trace, list) and len(trace) == 2 and all(isinstance(x, list) for x in trace)
    _require(form, "a trace is a list of instructions and one of decisions")
    instructions, decisions = trace
    for instruction in instructions:
        _check_instruction(instruction)
    sampled = [i for i, (kind, *_) in enumerate(instructions) if kind in SAMPLES]
    form = all(isinstance(each, list) and len(each) == 2 for each in decisions)
    # Else TVM would draw one.
    _require(form and [each[0] for each in decisions] == sampled, "a sample is not decided")
    _require(all(_is_simple(each) for each in decisions), "a decision is no number or list")
    return [instructions, decisions]


def _check_instruction(instruction: Any) -> None:
    form = isinstance(instruction, list) and len(instruction) == 4
    _require(form, "an instruction of a trace has four parts")
    kind, parts = instruction[0], instruction[1:]
    _require(isinstance(kind, str) and kind in PRIMITIVES, f"a trace has a {str(kind)[:40]!r}")
    _require(
        all(isinstance(part, list) and _is_simple(part) for part in parts),
        f"a {kind} has no plain arguments",
    )
    _, attrs, outputs = parts
    _require(all(isinstance(each, str) for each in outputs), f"a {kind} has no names")
    if kind == "Annotate":
        known = len(attrs) == 1 and attrs[0] in UNROLL | NOTES
        _require(known, f"a trace annotates with {str(attrs)[:60]}")


def _is_simple(value: object, depth: int = 3) -> bool:
    """Whether it is made of whole numbers, numbers and texts."""
    if isinstance(value, list):
        return depth > 0 and all(_is_simple(each, depth - 1) for each in value)
    if isinstance(value, bool) or value is None:
        return value is not None
    return isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 1 << 31)


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
        costs = cls(memory=sum(_bytes(param.ty) for param in func.params))
        costs.walk(func.body, 1)
        return costs

    def walk(self, stmt: Any, times: int) -> None:
        match stmt:
            case tirx.For():
                known = isinstance(stmt.extent, tirx.IntImm)
                _require(known, "the trace makes a loop of unknown length")
                _check_loop(stmt)
                self.walk(stmt.body, times * int(stmt.extent))
            case tirx.SeqStmt():
                for each in stmt.seq:
                    self.walk(each, times)
            case s_tir.SBlockRealize():
                block = stmt.block
                self.memory += sum(_bytes(each.ty) for each in block.alloc_buffers)
                self.walk(block.body, times)
            case _:
                self.work += times


def _check_loop(loop: tirx.For) -> None:
    lanes = int(loop.extent) if loop.kind == tirx.ForKind.VECTORIZED else 1
    _require(lanes <= MOST_LANES, f"the trace makes vectors of {lanes} lanes")
    unrolled = [value for key, value in loop.annotations.items() if str(key) in UNROLL]
    _require(
        all(0 <= int(value) <= MOST_UNROLLED for value in unrolled), "the trace unrolls too much"
    )


def _bytes(kind: Any) -> int:
    return int(prod(int(size) for size in kind.shape)) * int(DataType(str(kind.dtype)).itemsize)


def _check(before: tirx.PrimFunc, after: tirx.PrimFunc) -> None:
    """Raises BadRecords where a schedule makes much more of a function than it was."""
    had, has = _Costs.of(before), _Costs.of(after)
    _require(has.work <= MOST_WORK * had.work, "the trace multiplies the work")
    _require(has.memory <= MOST_MEMORY * had.memory, "the trace multiplies the memory")
