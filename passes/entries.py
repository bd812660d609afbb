"""The functions of a module that a user calls: all of them, and the module with others in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax
from tvm.ir import GlobalVar, IRModule


def entry_functions(mod: IRModule) -> list[tuple[GlobalVar, relax.Function]]:
    """The functions that a user calls: those with a global symbol."""
    return [
        (gvar, func)
        for gvar, func in mod.functions.items()
        if isinstance(func, relax.Function) and func.attrs and "global_symbol" in func.attrs
    ]


def map_entries(
    mod: IRModule, rewrite: Callable[[relax.Function], relax.Function]
) -> IRModule:
    """`mod` with every entry function rewritten."""
    functions = dict(mod.functions.items())
    for gvar, func in entry_functions(mod):
        functions[gvar] = rewrite(func)
    return IRModule(functions, attrs=mod.attrs)


def with_entries(
    builder: relax.BlockBuilder, mod: IRModule, entries: Mapping[GlobalVar, relax.Function]
) -> IRModule:
    """`mod` with what was added to its `builder`, and with the rewritten `entries`."""
    functions = dict(builder.get().functions.items())
    names = {gvar.name_hint: gvar for gvar in functions}
    for gvar, func in entries.items():
        functions[names[gvar.name_hint]] = func
    return IRModule(functions, attrs=mod.attrs)
