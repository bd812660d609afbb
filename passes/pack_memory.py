"""alloc_tensor(a), alloc_tensor(b), ...  ->  one alloc_storage, and a, b, ... at offsets in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax, tirx
from tvm.ir import GlobalVar, IRModule, PrimType
from tvm.sym import Analyzer

from pocketformer.passes.arena import Bytes, Life, bytes_of, place
from pocketformer.passes.entries import entry_functions
from pocketformer.passes.graph import Graph, Size, dtype, op_name
from pocketformer.passes.offsets import with_offsets

ALLOC = "relax.builtin.alloc_tensor"
VIEW = "relax.reshape"
# A PrimFunc's attribute: the arguments whose memory its result may take over.
IN_PLACE = "pocketformer.in_place"


@dataclass(frozen=True)
class PackMemory:
    """All that an entry computes on the way lies in one arena, whose layout is settled now.

    What the caller gets, and what code of others touches, keeps memory of its own. Kernels are told
    of the offsets of their arguments. Runs on calls that write into their last argument.
    """

    def __call__(self, mod: IRModule) -> IRModule:
        functions = dict(mod.functions.items())
        moved: dict[GlobalVar, set[int]] = defaultdict(set)
        for gvar, func in entry_functions(mod):
            tensors = _Tensors(mod, func)
            functions[gvar] = _packed(tensors, func)
            tensors.note_moved(moved)
        for gvar, places in moved.items():
            functions[gvar] = with_offsets(functions[gvar], places)
        return IRModule(functions, attrs=mod.attrs)


@dataclass
class _Tensor:
    """An intermediate result and the steps that it lives from and to."""

    var: relax.Var
    bytes: Bytes
    first: int = -1
    last: int = -1
    home: _Tensor | None = None     # whose memory it takes over

    def settled(self) -> _Tensor:
        return self if self.home is None else self.home.settled()

    def use(self, step: int) -> None:
        self.first = step if self.first < 0 else self.first
        self.last = step


class _Tensors:
    """The tensors of a function that may lie in an arena, by their variables and all views."""

    def __init__(self, mod: IRModule, func: relax.Function) -> None:
        self._mod = mod
        self.graph = Graph(func)
        self._of: dict[relax.Var, _Tensor] = {}
        self._tuples: dict[relax.Var, list[relax.Expr]] = {}    # of kernels with several results
        limits = func.attrs.get("tir_var_upper_bound") or {}
        self._limits = {str(name): int(limit) for name, limit in limits.items()}
        for step, binding in enumerate(self.graph.bindings):
            self._read(step, binding.var, binding.value)
        self._drop(self.graph.outputs)
        for step, binding in enumerate(self.graph.bindings):
            self._reuse(step, binding.value)

    def homes(self) -> list[_Tensor]:
        """Those with a place of their own."""
        return [tensor for tensor in self.all() if tensor.home is None]

    def all(self) -> list[_Tensor]:
        return list({id(tensor): tensor for tensor in self._of.values()}.values())

    def note_moved(self, moved: dict[GlobalVar, set[int]]) -> None:
        """Add which arguments of which kernels lie in the arena."""
        for _, value in self.graph:
            if self._kernel(value) is not None:
                places = [i for i, arg in enumerate(value.args) if arg in self._of]
                moved[value.op].update(places)

    def _read(self, step: int, var: relax.Var, value: relax.Expr) -> None:
        if op_name(value) == ALLOC:
            size = bytes_of(value.args[0].values, np.dtype(dtype(var)).itemsize, self._limits)
            self._of[var] = _Tensor(var, size)
        elif isinstance(value, relax.Var) or op_name(value) == VIEW:
            source = value if isinstance(value, relax.Var) else value.args[0]
            self._alias(var, source)
        elif isinstance(value, relax.Tuple):
            self._tuples[var] = list(value.fields)
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in self._tuples:
            self._alias(var, self._tuples[value.tuple_value][int(value.index)])
        elif self._kernel(value) is not None:
            for arg in value.args:
                if arg in self._of:
                    self._of[arg].use(step)
        else:
            self._drop(self.graph.used(value))

    def _kernel(self, value: relax.Expr) -> tirx.PrimFunc | None:
        """The function of ours that `value` calls."""
        ours = isinstance(value, relax.Call) and isinstance(value.op, GlobalVar)
        func = self._mod[value.op] if ours else None
        return func if isinstance(func, tirx.PrimFunc) else None

    def _alias(self, var: relax.Var, source: relax.Expr) -> None:
        """`var` is another name of `source`."""
        if source in self._of:
            self._of[var] = self._of[source]
        if source in self._tuples:
            self._tuples[var] = self._tuples[source]

    def _drop(self, variables: Collection[relax.Expr]) -> None:
        """Leave out `variables`, and what is in tuples among them."""
        for var in variables:
            self._drop(self._tuples.get(var, ()))
        gone = [self._of[var] for var in variables if var in self._of]
        self._of = {var: tensor for var, tensor in self._of.items() if tensor not in gone}

    def _reuse(self, step: int, value: relax.Expr) -> None:
        """Let the result of a call take over an argument that is not needed any more."""
        kernel = self._kernel(value)
        if kernel is None or IN_PLACE not in kernel.attrs or value.args[-1] not in self._of:
            return
        result = self._of[value.args[-1]]
        read = [self._of[arg].settled() for arg in value.args[:-1] if arg in self._of]
        for number in kernel.attrs[IN_PLACE]:
            if (arg := value.args[int(number)]) not in self._of or result.first != step:
                continue
            old = self._of[arg].settled()
            alone = sum(tensor is old for tensor in read) == 1
            if old.last == step and alone and str(old.bytes) == str(result.bytes):
                result.home, old.last = old, result.last
                return


def _packed(tensors: _Tensors, func: relax.Function) -> relax.Function:
    homes = tensors.homes()
    if not homes:
        return func
    offsets, total = _layout(homes)
    arena = relax.Var("arena", relax.ObjectType())
    storage = relax.op.memory.alloc_storage(relax.ShapeExpr([total]), 0, "global", "uint8")
    bindings = [relax.VarBinding(arena, storage)]
    known = _computed_once(bindings, offsets)
    places = {tensor.var: known[id(tensor.settled())] for tensor in tensors.all()}
    for binding in tensors.graph.bindings:
        if binding.var in places:
            sizes, kind = binding.value.args[:2]
            call = relax.op.memory.alloc_tensor(arena, places[binding.var], sizes, kind)
            bindings.append(relax.VarBinding(binding.var, call))
        else:
            bindings.append(binding)
    body = relax.BlockBuilder().normalize(
        relax.SeqExpr([relax.BindingBlock(bindings)], func.body.body)
    )
    return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)


def _computed_once(
    bindings: list[relax.VarBinding], offsets: Mapping[int, Size]
) -> dict[int, relax.Expr | int]:
    """`offsets`, where those that depend on dimensions are bound to a variable each."""
    known: dict[str, relax.Expr | int] = {}
    for offset in offsets.values():
        value = offset if isinstance(offset, int) else Analyzer().simplify(offset)
        if isinstance(value, int | tirx.IntImm):
            known[str(offset)] = int(value)
        elif str(offset) not in known:
            var = relax.Var("offset", PrimType("int64"))
            bindings.append(relax.VarBinding(var, value))
            known[str(offset)] = var
    return {key: known[str(offset)] for key, offset in offsets.items()}


def _layout(homes: list[_Tensor]) -> tuple[dict[int, Size], Size]:
    """Each tensor's offset, and the bytes of all.

    Sizes can be compared where they are multiples of one unit, so each unit has a part of its own.
    """
    parts: dict[str, list[_Tensor]] = defaultdict(list)
    for tensor in homes:
        parts[tensor.bytes.part].append(tensor)
    offsets: dict[int, Size] = {}
    begin: Size = 0
    for part in parts.values():
        step = part[0].bytes.step
        lives = [Life(tensor.bytes.rounded, tensor.first, tensor.last) for tensor in part]
        found, count = place(lives)
        for tensor, offset in zip(part, found, strict=True):
            offsets[id(tensor)] = begin + offset * step
        begin = begin + count * step
    return offsets, begin
