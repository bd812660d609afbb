"""What the converters build with: emits Relax calls that bear their node's name, and holds weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import ir, relax
from tvm.relax import op as R
from tvm.runtime import tensor as tvm_tensor

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_file import Source
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_signature import HIGHEST_RANK, LARGEST_SIZE
from pocketformer.compiler.frontends.onnx_values import Size, Solver, Symbolic, Value

LARGEST_INLINE = 16      # elements of a constant that stays in the graph; more make a weight
MOST_ELEMENTS = 2**33    # of one result: more is a malformed model, not one for a phone


class Builder:
    """Builds one dataflow block. `node` is the source operator whose code is being made."""

    def __init__(self, solver: Solver, source: Source) -> None:
        self.solver = solver
        self.source = source
        self.uses: Counter[str] = Counter()
        self.node = Node("", "", (), (), {}, 0)
        self.weights: dict[str, np.ndarray] = {}
        self.block = relax.BlockBuilder()
        self._params: dict[int, tuple[np.ndarray, relax.Var]] = {}
        self._names: dict[int, tuple[np.ndarray, str]] = {}
        self._parameter_names: set[str] = set()

    # -- what is known about a value ------------------------------------------------------------

    def shape(self, value: Value) -> tuple[Size, ...]:
        if isinstance(value, np.ndarray):
            return value.shape
        if isinstance(value, Symbolic):
            return value.array.shape
        return tuple(self.solver.simplify(size) for size in value.ty.shape.values)

    def rank(self, value: Value) -> int:
        return len(self.shape(value))

    def dtype(self, value: Value) -> str:
        if isinstance(value, np.ndarray):
            return str(value.dtype)
        return value.dtype if isinstance(value, Symbolic) else str(value.ty.dtype)

    def axis(self, axis: int, rank: int) -> int:
        """A non-negative axis below `rank`."""
        if not -rank <= axis < rank:
            raise BadModel(f"axis {axis} is outside a tensor of rank {rank}")
        return axis % rank

    def same_shape(self, a: Sequence[Size], b: Sequence[Size]) -> bool:
        return len(a) == len(b) and all(map(self.solver.equal, a, b))

    def constant(self, value: Value, what: str) -> np.ndarray:
        """The numbers of `value`, which must not depend on what the model is run with."""
        if isinstance(value, np.ndarray):
            return value
        why = "symbolic sizes" if isinstance(value, Symbolic) else "the input's data"
        raise UnsupportedOperator(f"its {what} depends on {why}, it must be constant")

    def sizes(self, value: Value, what: str) -> list[Size]:
        """The elements of an integer vector or scalar, which may depend on sizes but not on data."""
        if not isinstance(value, (np.ndarray, Symbolic)):
            raise UnsupportedOperator(f"its {what} depends on the input's data")
        array = value if isinstance(value, np.ndarray) else value.array
        if array.ndim > 1 or array.size > 4096:
            raise BadModel(f"its {what} is no short vector")
        return [self.solver.simplify(element) for element in array.reshape(-1)]

    # -- making Relax ---------------------------------------------------------------------------

    def name_constant(self, array: np.ndarray, name: str, own: bool = True) -> None:
        """What the weight is to be called that `array` may become; not `own` keeps an earlier name."""
        if own or id(array) not in self._names:
            self._names[id(array)] = (array, name)

    def is_shared(self, array: np.ndarray) -> bool:
        """Whether several nodes use this constant, so that a changed copy would be stored besides."""
        return id(array) in self._names and self.uses[self._names[id(array)][1]] > 1

    def transposed(self, matrix: np.ndarray) -> Value:
        """The transpose of a constant: another constant, or a step of the model where it is shared."""
        if matrix.size > LARGEST_INLINE and self.is_shared(matrix):
            return self.emit(R.permute_dims(self.tensor(matrix)))
        result = matrix.T
        if id(matrix) in self._names:
            self.name_constant(result, self._names[id(matrix)][1])
        return result

    def tensor(self, value: Value) -> relax.Expr:
        """`value` as something that a Relax call takes."""
        if isinstance(value, Symbolic):
            return self._materialised(value)
        if not isinstance(value, np.ndarray):
            return value
        if value.size <= LARGEST_INLINE:
            return self.literal(value)
        if id(value) not in self._params:
            name = self._names.get(id(value), (value, f"{self.node.name}_constant"))[1]
            self._params[id(value)] = (value, self._weight(value, name))
        return self._params[id(value)][1]

    def literal(self, number: Any, dtype: str | None = None) -> relax.Expr:
        array = np.ascontiguousarray(np.asarray(number, dtype=None if dtype is None else dtype))
        return relax.const(tvm_tensor(array.reshape(np.shape(number))))

    def _weight(self, array: np.ndarray, name: str) -> relax.Var:
        unique, count = name, 1
        while unique in self._parameter_names:
            count += 1
            unique = f"{name}_{count}"
        self._parameter_names.add(unique)
        self.weights[unique] = array
        return relax.Var(unique, relax.TensorType(array.shape, str(array.dtype)))

    @property
    def weight_vars(self) -> dict[str, relax.Var]:
        return {var.name: var for _, var in self._params.values()}

    def reserve(self, name: str) -> None:
        """Keep a parameter's name from being given to a weight."""
        self._parameter_names.add(name)

    def _materialised(self, value: Symbolic) -> relax.Expr:
        """One arange of length 1 for each element: an ordinary kernel, which fuses with its user."""
        if value.array.size > LARGEST_INLINE:
            raise UnsupportedOperator("it computes with more than 16 symbolic sizes at run time")
        parts = []
        for element in value.array.reshape(-1):
            if value.dtype == "bool":
                element = self.solver.choose(element, 1, 0)
            parts.append(R.arange(element, element + 1, 1, "int64"))
        flat = parts[0] if len(parts) == 1 else R.concat(parts, axis=0)
        shaped = R.reshape(flat, value.array.shape)
        return self.emit(R.astype(shaped, value.dtype) if value.dtype != "int64" else shaped)

    def emit(self, tree: relax.Expr) -> relax.Expr:
        """Bind every call of `tree` on its own, as a step of the current node; the root's variable."""
        return self._bind(tree, f"{identifier(self.node.name)}_step", {})

    def emit_result(self, tree: relax.Expr, is_output: bool = False) -> relax.Expr:
        """The same, where the root is what the current node is for: it gets the node's name."""
        name, emit = identifier(self.node.name), self.block.emit
        if is_output:
            emit = self.block.emit_output
        if isinstance(tree, relax.TupleGetItem):
            return emit(tree, name)
        if not _is_relax_call(tree):
            return tree
        done: dict[Any, Any] = {}
        args = [self._bind(arg, f"{name}_step", done) for arg in tree.args]
        return self._checked(emit(self._with_span(tree, args), name))

    def _bind(self, tree: relax.Expr, name: str, done: dict[Any, Any]) -> relax.Expr:
        if isinstance(tree, relax.Tuple):
            return relax.Tuple([self._bind(field, name, done) for field in tree.fields])
        if isinstance(tree, relax.TupleGetItem):
            return self.block.emit(tree, name)
        if not _is_relax_call(tree):
            return tree
        if tree not in done:
            call = self._with_span(tree, [self._bind(arg, name, done) for arg in tree.args])
            done[tree] = self._checked(self.block.emit(call, name))
        return done[tree]

    def _with_span(self, call: relax.Expr, args: list[relax.Expr]) -> relax.Expr:
        span = ir.Span(ir.SourceName(self.node.name), 0, 0, 0, 0)
        return ir.Call(call.op, args, call.attrs, call.ty_args, span)

    def _checked(self, var: relax.Expr) -> relax.Expr:
        types = var.ty.fields if isinstance(var.ty, relax.TupleType) else [var.ty]
        for ty in types:
            if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
                raise UnsupportedOperator("the shape of its result depends on the input's data")
            self.check_shape([self.solver.simplify(size) for size in ty.shape.values])
        return var

    def check_shape(self, shape: Sequence[Size]) -> None:
        """Refuse results that only a malformed model can have."""
        known = [size for size in shape if isinstance(size, int)]
        if any(size < 0 or size > LARGEST_SIZE for size in known) or len(shape) > HIGHEST_RANK:
            raise BadModel(f"its result would have the shape ({', '.join(map(str, shape))})")
        if 0 not in known and np.prod(known, dtype=float) > MOST_ELEMENTS:
            raise BadModel(f"its result would have the shape ({', '.join(map(str, shape))})")

    # -- shapes that must agree -----------------------------------------------------------------

    def broadcast_shape(self, shapes: Sequence[Sequence[Size]]) -> tuple[Size, ...]:
        """The common shape; where two symbols cannot be told apart the first is taken."""
        rank = max(len(shape) for shape in shapes)
        result: list[Size] = [1] * rank
        for shape in shapes:
            for index, size in enumerate(shape, start=rank - len(shape)):
                other = result[index]
                if isinstance(other, int) and other == 1:
                    result[index] = size
                elif isinstance(size, int) and size != 1 and not isinstance(other, int):
                    result[index] = size
                elif isinstance(size, int) and size not in (1, other):
                    raise BadModel(f"sizes {other} and {size} do not fit together")
        return tuple(result)

    def broadcast(self, *values: Value) -> list[relax.Expr]:
        """The tensors, with sizes that are equal wherever Relax has to see that they are.

        Two sizes that differ in how they are computed must be equal for the model to run at all:
        the cast makes that a check at run time.
        """
        common = self.broadcast_shape([self.shape(value) for value in values])
        return [self._agreeing(self.tensor(value), common) for value in values]

    def _agreeing(self, tensor: relax.Expr, common: Sequence[Size]) -> relax.Expr:
        shape = self.shape(tensor)
        wanted = list(shape)
        for index, size in enumerate(shape):
            other = common[len(common) - len(shape) + index]
            if not (isinstance(size, int) and size == 1) and not self.solver.equal(size, other):
                wanted[index] = other
        return self.cast_shape(tensor, wanted)

    def cast_shape(self, tensor: relax.Expr, shape: Sequence[Size]) -> relax.Expr:
        """`tensor` with its shape said in another way; checked at run time."""
        if self.same_shape(self.shape(tensor), shape):
            return tensor
        ty = relax.TensorType(list(shape), str(tensor.ty.dtype))
        return self.block.match_cast(tensor, ty, f"{identifier(self.node.name)}_cast")

    def reshape(self, value: Value, shape: Sequence[Size]) -> Value:
        """`value` in another shape of as many elements; constants stay constants."""
        if isinstance(value, np.ndarray) and all(isinstance(size, int) for size in shape):
            result = value.reshape([int(size) for size in shape])
            if id(value) in self._names:
                self.name_constant(result, self._names[id(value)][1])
            return result
        if isinstance(value, Symbolic) and all(isinstance(size, int) for size in shape):
            return Symbolic(value.array.reshape([int(size) for size in shape]), value.dtype)
        if self.same_shape(self.shape(value), shape):
            return value
        return R.reshape(self.tensor(value), list(shape))


    def finish(self, params: Sequence[relax.Var], outputs: Sequence[relax.Expr]) -> relax.Function:
        """The function of `params` and of the weights that the outputs follow from."""
        results = [self._as_output(output) for output in outputs]
        block = self.block._end_block()
        self.block.end_scope()
        body = self.block.normalize(relax.SeqExpr([block], relax.Tuple(results)))
        weights = [var for _, var in self._params.values()]
        whole = relax.Function([*params, *weights], body, body.ty).with_attr("global_symbol", "main")
        module = ir.IRModule({"main": whole})
        for step in (relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()):
            module = step(module)
        body = module["main"].body
        used = set(relax.analysis.all_vars(body))
        kept = [var for var in weights if var in used]
        function = relax.Function([*params, *kept], body, body.ty)
        return function.with_attr("global_symbol", "main").with_attr("num_input", len(params))

    def _as_output(self, output: relax.Expr) -> relax.Expr:
        is_bound = isinstance(output, relax.DataflowVar)
        return self.block.emit_output(output) if is_bound else output


Converter = Callable[[Builder, Node, list[Value | None]], Any]


def _is_relax_call(tree: Any) -> bool:
    return (
        isinstance(tree, ir.Call)
        and isinstance(tree.op, ir.Op)
        and tree.op.name.startswith("relax.")
    )


def identifier(name: str) -> str:
    """`name` in letters that TVM's variables may have."""
    cleaned = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return cleaned if cleaned and not cleaned[0].isdigit() else f"n{cleaned}"
