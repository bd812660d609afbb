"""The schedule primitives that a recorded trace may have, and how each is done again.

They are those that MetaSchedule's rules for "llvm" use, with the arguments that these give them:
none leaves out a bounds check, names other memory than a processor's or brings in foreign code.
All else that TVM can read is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from tvm import s_tir, tirx

from pocketformer.compiler.errors import BadRecords

MOST_LENGTH = (1 << 31) - 1     # of one loop: what indices of 32 bits hold

# What parts of an instruction look like as JSON: a block is called b1, a loop l1, a number v1.
BLOCK, LOOP, NUMBER = (f'"{letter}\\d{{1,5}}"' for letter in "blv")
SIZE = r"[1-9]\d{0,8}"
UNROLL = "pragma_auto_unroll_max_step|pragma_unroll_explicit"
# MetaSchedule's notes to itself, which nothing else reads.
NOTE = (
    r"meta_schedule\.(parallel|vectorize|unroll_explicit|unroll_implicit|tiling_structure|"
    r"random_compute_producer)"
)


def _list(item: str, most: str = "") -> str:
    return rf"\[{item}(,{item}){{0,{most}}}\]"


BLOCKS, LOOPS = rf"(\[\]|{_list(BLOCK)})", rf"(\[\]|{_list(LOOP)})"
# Inputs, attributes and outputs of each kind.
FORMS: Mapping[str, str] = {
    "Annotate": (
        rf'(\[{LOOP},\d{{1,3}}\],\["({UNROLL})"\]|'
        rf'\[{BLOCK},({NUMBER}|\d{{1,9}}|"\\"[SR]{{1,16}}\\"")\],\["{NOTE}"\]),\[\]'),
    "CacheWrite": rf'\[{BLOCK},\[\]\],\[0,"global"\],\[{BLOCK}\]',
    "ComputeAt": rf"\[{BLOCK},{LOOP}\],\[1,-1\],\[\]",
    "ComputeInline": rf"\[{BLOCK}\],\[\],\[\]",
    "DecomposeReduction": rf"\[{BLOCK},{LOOP}\],\[\],\[{BLOCK}\]",
    "EnterPostproc": r"\[\],\[\],\[\]",
    "Fuse": rf"{_list(LOOP)},\[1\],\[{LOOP}\]",
    "GetChildBlocks": rf"\[{BLOCK}\],\[\],{BLOCKS}",
    "GetConsumers": rf"\[{BLOCK}\],\[\],{BLOCKS}",
    "GetLoops": rf"\[{BLOCK}\],\[\],{LOOPS}",
    "GetProducers": rf"\[{BLOCK}\],\[\],{BLOCKS}",
    "GetSBlock": rf'\[\],\["[\w.]{{1,200}}","main"\],\[{BLOCK}\]',
    "Parallel": rf"\[{LOOP}\],\[\],\[\]",
    "Reorder": rf"{_list(LOOP)},\[\],\[\]",
    "ReverseComputeAt": rf"\[{BLOCK},{LOOP}\],\[1,-1\],\[\]",
    "RFactor": rf"\[{LOOP}\],\[\d\],\[{BLOCK}\]",
    "SampleCategorical": (
        rf"\[\],\[{_list(r'[0-9]{1,3}', '7')},{_list(r'[01][.][0-9]{1,20}', '7')}\],\[{NUMBER}\]"),
    "SampleComputeLocation": rf"\[{BLOCK}\],\[\],\[{LOOP}\]",
    "SamplePerfectTile": rf"\[{LOOP}\],\[[1-8],\d{{1,2}}\],{_list(NUMBER, '7')}",
    # The second attribute would leave out the check that an index is within bounds.
    "Split": rf'\[{LOOP}(,({NUMBER}|"None"|{SIZE})){{1,8}}\],\[true,false\],{_list(LOOP, "7")}',
    "Unannotate": rf'\[{BLOCK}\],\["{NOTE}"\],\[\]',
    "Vectorize": rf"\[{LOOP}\],\[\],\[\]",
}
DECISIONS: Mapping[str, str] = {
    "SampleCategorical": r"\d",
    "SampleComputeLocation": r"-[12]|\d{1,2}",
    "SamplePerfectTile": _list(SIZE, "7"),
}


def is_known(kind: str, parts: Sequence[Any]) -> bool:
    """Whether an instruction of a `kind` in FORMS has such inputs, attributes and outputs."""
    return _looks(parts, rf"\[{FORMS[kind]}\]")


def is_decision(kind: str, value: Any) -> bool:
    """Whether `value` is a decision of a `kind` in DECISIONS."""
    return _looks(value, DECISIONS[kind])


def _looks(value: Any, form: str) -> bool:
    return re.fullmatch(form, json.dumps(value, separators=(",", ":"))) is not None


def _split(sch: s_tir.Schedule, given: list[Any], *_: Any) -> Any:
    loop, *factors = given
    if not isinstance(sch.get(loop).extent, tirx.IntImm):
        raise BadRecords("a trace splits a loop of unknown length")
    _check_length([
        factor if isinstance(factor, int) else int(sch.get(factor))
        for factor in factors if factor is not None
    ])
    return sch.split(loop, factors)


def _fuse(sch: s_tir.Schedule, loops: list[Any], *_: Any) -> Any:
    _check_length([int(sch.get(loop).extent) for loop in loops])
    return sch.fuse(*loops)


def _check_length(factors: list[int]) -> None:
    if prod(factors) > MOST_LENGTH:
        raise BadRecords(f"a trace makes a loop of more than {MOST_LENGTH} steps")


def _choose(sch: s_tir.Schedule, _: Any, attrs: list[Any], decision: int) -> Any:
    choices, chances = attrs
    if not decision < len(choices) == len(chances):
        raise BadRecords("a trace decides for what is no choice")
    return sch.sample_categorical(choices, chances, decision=decision)


# What each does to a schedule, with its inputs, its attributes and the decision of a sample.
ACTIONS: Mapping[str, Callable[[s_tir.Schedule, list[Any], list[Any], Any], Any]] = {
    "Annotate": lambda sch, given, attrs, _: sch.annotate(given[0], attrs[0], given[1]),
    "CacheWrite": lambda sch, given, attrs, _: sch.cache_write(given[0], *attrs),
    "ComputeAt": lambda sch, given, *_: sch.compute_at(*given, preserve_unit_loops=True),
    "ComputeInline": lambda sch, given, *_: sch.compute_inline(*given),
    "DecomposeReduction": lambda sch, given, *_: sch.decompose_reduction(*given),
    "EnterPostproc": lambda sch, *_: sch.enter_postproc(),
    "Fuse": _fuse,
    "GetChildBlocks": lambda sch, given, *_: sch.get_child_blocks(*given),
    "GetConsumers": lambda sch, given, *_: sch.get_consumers(*given),
    "GetLoops": lambda sch, given, *_: sch.get_loops(*given),
    "GetProducers": lambda sch, given, *_: sch.get_producers(*given),
    "GetSBlock": lambda sch, _, attrs, __: sch.get_sblock(*attrs),
    "Parallel": lambda sch, given, *_: sch.parallel(*given),
    "Reorder": lambda sch, given, *_: sch.reorder(*given),
    "ReverseComputeAt": (
        lambda sch, given, *_: sch.reverse_compute_at(*given, preserve_unit_loops=True)),
    "RFactor": lambda sch, given, attrs, _: sch.rfactor(*given, *attrs),
    "SampleCategorical": _choose,
    "SampleComputeLocation": (
        lambda sch, given, _, decision: sch.sample_compute_location(*given, decision=decision)),
    "SamplePerfectTile": (
        lambda sch, given, attrs, decision: sch.sample_perfect_tile(*given, *attrs, decision)),
    "Split": _split,
    "Unannotate": lambda sch, given, attrs, _: sch.unannotate(*given, *attrs),
    "Vectorize": lambda sch, given, *_: sch.vectorize(*given),
}
