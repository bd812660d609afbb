"""kernel_1(x, w, out), kernel_2(x, w, out), ...  ->  main, which calls them round after round."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tvm import DataType, relax, tirx
from tvm.ir import GlobalVar, IRModule

from pocketformer.compiler.model import TensorSpec
from pocketformer.compiler.tuning.weight_pool import WeightPool
from pocketformer.passes.pack_memory import with_offsets
from pocketformer.schedules.cpu.kernel import Kernel

FILL = "fill_pool"
FEWEST_ROUNDS, MOST_CALLS = 4, 256      # of a run: each call has a record in a profile


@dataclass(frozen=True)
class Turns:
    """The module, its inputs, and the function of each kernel: equal code has one function."""

    module: IRModule
    inputs: tuple[TensorSpec, ...]
    functions: tuple[str, ...]


def turns(kernels: Sequence[Kernel], sizes: Sequence[str], cold_bytes: int) -> Turns:
    """A module whose `main` calls `kernels`, each once a round, in another order in each.

    `sizes` names what is symbolic. The kernels' arguments are inputs, also those that are written:
    results in fresh memory would be slower than any model's. Packed weights lie in a pool, where
    `cold_bytes` of others are read before the same again.
    """
    writer = _Writer(kernels, sizes)
    module = writer.module(cold_bytes)
    return Turns(module, writer.specs(), tuple(writer.functions))


@dataclass(frozen=True)
class _Argument:
    """A parameter of a kernel; equal ones of several kernels are one input."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @staticmethod
    def of(param: Any) -> _Argument:
        sizes = (int(n) if isinstance(n, tirx.IntImm) else str(n) for n in param.ty.shape)
        return _Argument(str(param.name), tuple(sizes), str(param.ty.dtype.dtype))

    @property
    def bytes(self) -> int:
        return int(prod(map(int, self.shape)) * DataType(self.dtype).itemsize)


@dataclass(frozen=True)
class _Called:
    """A kernel in the module; `weight` is its argument that lies in the pool."""

    function: GlobalVar
    arguments: tuple[_Argument, ...]
    weight: _Argument | None


class _Writer:
    """Collects the functions, inputs and bindings of one module."""

    def __init__(self, kernels: Sequence[Kernel], sizes: Sequence[str]) -> None:
        self._sizes = {name: tirx.Var(name, "int64") for name in sizes}
        self._bindings: list[relax.VarBinding] = []
        self._builder = relax.BlockBuilder()
        self._inputs: dict[_Argument, relax.Var] = {}
        self.functions: list[str] = []
        self._called = self._add_kernels(kernels)

    def specs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in order."""
        return tuple(
            TensorSpec(str(var.name), argument.shape, argument.dtype)
            for argument, var in self._inputs.items()
        )

    def module(self, cold_bytes: int) -> IRModule:
        """The module with `main`, once."""
        count = len(self._called)
        rounds = max(FEWEST_ROUNDS, MOST_CALLS // count)
        weights = [each.weight for each in self._called if each.weight]
        pool, storage = None, None
        if weights:
            largest = max(weight.bytes for weight in weights)
            pool = WeightPool.of(weights[0].dtype, largest, cold_bytes)
            rounds = max(FEWEST_ROUNDS, min(rounds, -(-pool.slots // count)))
            pool = replace(pool, slots=min(pool.slots, rounds * count))
            storage = self._filled(pool)
        shuffle = random.Random(0).shuffle      # the same whenever the job is built
        for turn in range(rounds):
            order = list(self._called)
            shuffle(order)
            for place, called in enumerate(order):
                self._call(called, pool, storage, turn * count + place)
        return self._finished()

    def _add_kernels(self, kernels: Sequence[Kernel]) -> list[_Called]:
        """Each different one once, named after the first point that it stands for."""
        called: dict[str, _Called] = {}
        for number, kernel in enumerate(kernels):
            func = kernel.func.without_attr("global_symbol")
            arguments = tuple(_Argument.of(param) for param in func.params)
            # In a model, arguments lie anywhere in an arena.
            func = with_offsets(func, range(len(func.params)))
            # Of equal functions the builder keeps the first.
            gvar = self._builder.add_func(func, f"t{number}_{kernel.name}")
            self.functions.append(str(gvar.name_hint))
            if gvar.name_hint in called:
                continue
            weight = None
            if kernel.packed_shape is not None:
                weight = next(each for each in arguments if each.name == "weight")
            called[gvar.name_hint] = _Called(gvar, arguments, weight)
            for argument in arguments:
                if argument != weight and argument not in self._inputs:
                    self._add_input(argument)
        return list(called.values())

    def _add_input(self, argument: _Argument) -> None:
        taken = sum(other.name == argument.name for other in self._inputs)
        name = argument.name + f"_{taken}" * bool(taken)
        shape = [self._sizes[n] if isinstance(n, str) else n for n in argument.shape]
        self._inputs[argument] = relax.Var(name, relax.TensorType(shape, argument.dtype))

    def _filled(self, pool: WeightPool) -> relax.Var:
        """The memory of `pool`, after a call that fills it."""
        size = relax.ShapeExpr([pool.bytes])
        storage = self._bind(
            "pool", relax.op.memory.alloc_storage(size, 0, "global", "uint8"), relax.ObjectType()
        )
        count, word = pool.words
        whole = self._tensor(storage, 0, (count,), word)
        self._bind("filled", relax.Call(self._builder.add_func(pool.fill(), FILL), [whole]))
        return storage

    def _call(
        self, called: _Called, pool: WeightPool | None, storage: relax.Var | None, number: int
    ) -> None:
        arguments = []
        for argument in called.arguments:
            if pool is not None and argument == called.weight:
                place = pool.offset(number)
                arguments.append(self._tensor(storage, place, argument.shape, argument.dtype))
            else:
                arguments.append(self._inputs[argument])
        self._bind("done", relax.Call(called.function, arguments))

    def _tensor(
        self, storage: relax.Var | None, offset: int, shape: Sequence[int | str], dtype: str
    ) -> relax.Var:
        kind = relax.TensorType(shape, dtype)
        call = relax.op.memory.alloc_tensor(storage, offset, relax.ShapeExpr(shape), dtype)
        return self._bind("weight", call, kind)

    def _bind(self, name: str, value: relax.Expr, kind: Any = None) -> relax.Var:
        var = relax.Var(name, kind or relax.TupleType([]))
        self._bindings.append(relax.VarBinding(var, value))
        return var

    def _finished(self) -> IRModule:
        body = relax.SeqExpr([relax.BindingBlock(self._bindings)], relax.Tuple([]))
        body = self._builder.normalize(body)
        inputs = list(self._inputs.values())
        attrs = {"num_input": len(inputs), "global_symbol": "main"}
        main = relax.Function(inputs, body, relax.TupleType([]), False).with_attrs(attrs)
        return IRModule({**self._builder.get().functions, GlobalVar("main"): main})
