"""kernel_1(x, w, out), kernel_2(x, w, out), ...  ->  main, which calls them round after round."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from math import prod
from typing import Any

from tvm import DataType, relax, tirx
from tvm.ir import GlobalVar, IRModule

from pocketformer.compiler.model import TensorSpec
from pocketformer.compiler.tuning.weight_pool import WeightPool
from pocketformer.passes.offsets import with_offsets
from pocketformer.schedules.cpu.kernel import Kernel, ceil_div

FILL = "fill_pool"
# Of a run. A device tells the time of every call of a profile's runs at once.
FEWEST_ROUNDS, MOST_CALLS = 2, 256
RUN_US = 500_000    # that a run takes at most, unless so few rounds do: two make a batch's second


@dataclass(frozen=True)
class Turns:
    """The module, its inputs, and the function of each kernel: equal code has one function."""

    module: IRModule
    inputs: tuple[TensorSpec, ...]
    functions: tuple[str, ...]


def turns(
    kernels: Sequence[Kernel], sizes: Sequence[str], cold_bytes: int, call_us: float = 0.0
) -> Turns:
    """A module whose `main` calls `kernels`, each once a round, in another order in each.

    `sizes` names what is symbolic. The kernels' arguments are inputs, also those that are written:
    results in fresh memory would be slower than any model's. Packed weights lie in a pool, where
    `cold_bytes` of others are read before the same again, or what MOST_CALLS read, or the calls of
    RUN_US if each takes `call_us`: beside so long a call its weights are read in no time.
    """
    writer = _Writer(kernels, sizes)
    most = int(min(MOST_CALLS, RUN_US / call_us)) if call_us else MOST_CALLS
    module = writer.module(cold_bytes, most)
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

    def module(self, cold_bytes: int, most_calls: int) -> IRModule:
        """The module with `main`; to be asked for once."""
        count = len(self._called)
        rounds = max(FEWEST_ROUNDS, most_calls // count)
        if pool := self._pool(cold_bytes, rounds * count):
            rounds = max(FEWEST_ROUNDS, ceil_div(pool.slots, count))     # once round the pool
        # The virtual machine gives out memory as a stack: what was the last to be let go of is the
        # first in the next run. So the first slot is the last to be read.
        slots = cycle(reversed(self._filled(pool) if pool else []))
        shuffle = random.Random(0).shuffle      # the same whenever the job is built
        for _ in range(rounds):
            order = list(self._called)
            shuffle(order)
            for called in order:
                self._call(called, next(slots, None))
        return self._finished()

    def _pool(self, cold_bytes: int, most_slots: int) -> WeightPool | None:
        """Memory for the weights of all kernels, if they have some."""
        weights = [called.weight for called in self._called if called.weight]
        if not weights:
            return None
        largest = max(weight.bytes for weight in weights)
        pool = WeightPool.of(weights[0].dtype, largest, cold_bytes)
        return replace(pool, slots=min(pool.slots, most_slots))

    def _add_kernels(self, kernels: Sequence[Kernel]) -> list[_Called]:
        """Each different one once, named after the first point that it stands for."""
        called: dict[str, _Called] = {}
        for number, kernel in enumerate(kernels):
            func = kernel.func.without_attr("global_symbol")
            arguments = tuple(_Argument.of(param) for param in func.params)
            weight = None
            if kernel.packed_shape is not None:
                weight = next(each for each in arguments if each.name == "weight")
            # In a model, all but weights lie anywhere in an arena.
            func = with_offsets(func, [i for i, each in enumerate(arguments) if each != weight])
            # Of equal functions the builder keeps the first.
            gvar = self._builder.add_func(func, f"t{number}_{kernel.name}")
            self.functions.append(str(gvar.name_hint))
            if gvar.name_hint in called:
                continue
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

    def _filled(self, pool: WeightPool) -> list[relax.Var]:
        """The memory of each slot of `pool`, after the calls that fill them."""
        fill = self._builder.add_func(pool.fill(), FILL)
        size = relax.ShapeExpr([pool.bytes])
        slots = []
        for _ in range(pool.slots):
            storage = relax.op.memory.alloc_storage(size, 0, "global", "uint8")
            slots.append(self._bind("slot", storage, relax.ObjectType()))
        for slot in slots:
            words = self._tensor(slot, (pool.words,), pool.word)
            self._bind("filled", relax.Call(fill, [words]))
        return slots

    def _call(self, called: _Called, slot: relax.Var | None) -> None:
        """A call whose weight lies in `slot`."""
        arguments = [
            self._tensor(slot, argument.shape, argument.dtype)
            if argument == called.weight else self._inputs[argument]
            for argument in called.arguments
        ]
        self._bind("done", relax.Call(called.function, arguments))

    def _tensor(
        self, slot: relax.Var | None, shape: Sequence[int | str], dtype: str
    ) -> relax.Var:
        call = relax.op.memory.alloc_tensor(slot, 0, relax.ShapeExpr(shape), dtype)
        return self._bind("weight", call, relax.TensorType(shape, dtype))

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
