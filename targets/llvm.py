"""What LLVM knows of a processor; a target is checked against it, as TVM itself does not."""

from __future__ import annotations

import difflib
from collections.abc import Set as AbstractSet

from pocketformer.compiler.errors import BadTarget
from pocketformer.targets.target import Target

# The features of LLVM that together make up a name of Target.isa.
ISA = {
    "x86_64": {
        "sse4": {"sse4.2"},
        "avx": {"avx"},
        "avx2": {"avx2"},
        "fma": {"fma"},
        "avx512f": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
        "avx512vnni": {"avx512vnni"},
        "avx512bf16": {"avx512bf16"},
    },
    "aarch64": {
        "neon": {"neon"},
        "dotprod": {"dotprod"},
        "fp16": {"fullfp16"},
        "i8mm": {"i8mm"},
        "bf16": {"bf16"},
        "sve": {"sve"},
        "sve2": {"sve2"},
    },
    "arm": {"neon": {"neon"}, "dotprod": {"dotprod"}, "fp16": {"fullfp16"}, "i8mm": {"i8mm"}},
}


def features(triple: str, mcpu: str, mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """LLVM's names of what code for this processor may use, and of how it is tuned."""
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    fields = {"kind": "llvm", "mtriple": triple, "mcpu": mcpu}
    target = TvmTarget({**fields, "mattr": list(mattr)} if mattr else fields)
    return frozenset(str(each) for each in codegen.llvm_get_cpu_features(target))


def instruction_sets(arch: str, llvm_features: AbstractSet[str]) -> frozenset[str]:
    """The names of Target.isa that these features amount to."""
    return frozenset(name for name, needs in ISA[arch].items() if needs <= llvm_features)


def check(target: Target) -> Target:
    """`target` itself, if LLVM knows its processors and features and agrees on every `isa`.

    Each level must have all features of the one before it, whose kernels it runs as well.
    Raises BadTarget, which names what is wrong.
    """
    from pocketformer.targets.host import WORDS  # which asks this module

    before: frozenset[str] = frozenset()
    for variant in target.variants:
        where = f"target {target.name}"
        if target.levels:
            where += f", level {variant.level}"
        found = _check_variant(where, variant) & WORDS.get(target.arch, {}).keys()
        if lost := before - found:
            raise BadTarget(f"{where}: it lacks {_names(lost)}, which the level before it has")
        before = found
    return target


def _check_variant(where: str, target: Target) -> frozenset[str]:
    """The features that code for `target` may contain."""
    for mcpu in (target.mcpu, *(cluster.mcpu for cluster in target.cores)):
        _check_processor(where, target.triple, mcpu)
    plain = features(target.triple, target.mcpu)
    enabled = features(target.triple, target.mcpu, target.mattr) if target.mattr else plain
    for each in target.mattr:
        sign, name = each[:1], each[1:]
        if sign not in ("+", "-") or name not in (enabled if sign == "+" else plain):
            raise BadTarget(
                f"{where}: {each!r} in mattr does nothing to {target.mcpu}; "
                f"write + or - and a feature of LLVM"
            )
    if (found := instruction_sets(target.arch, enabled)) != target.isa:
        raise BadTarget(
            f"{where}: isa is {_names(target.isa)}, "
            f"but LLVM's {target.mcpu} with mattr has {_names(found)}"
        )
    for cluster in target.cores:
        has = instruction_sets(target.arch, features(target.triple, cluster.mcpu))
        if lacking := target.isa - has:
            raise BadTarget(f"{where}: its {cluster.mcpu} cores have no {_names(lacking)}")
    return enabled


def _check_processor(where: str, triple: str, mcpu: str) -> None:
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    if codegen.llvm_is_valid_cpu(mcpu, triple):
        return
    known = codegen.llvm_get_cpu_archlist(
        TvmTarget({"kind": "llvm", "mtriple": triple, "mcpu": "generic"})
    )
    near = difflib.get_close_matches(mcpu, map(str, known), n=4)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise BadTarget(f"{where}: LLVM knows no processor {mcpu!r} for {triple}{hint}")


def _names(isa: AbstractSet[str]) -> str:
    return ", ".join(sorted(isa)) or "nothing"
