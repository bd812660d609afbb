"""What the converters build with: emits Relax calls that bear the name of their node."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import ir, relax
from tvm.relax import op as R
from tvm.runtime import tensor as tvm_tensor

from pocketformer.compiler.errors import BadModel, UnsupportedOperator
from pocketformer.compiler.frontends.onnx_file import Source
from pocketformer.compiler.frontends.onnx_node import Node
from pocketformer.compiler.frontends.onnx_signature import HIGHEST_RANK
from pocketformer.compiler.frontends.onnx_values import Size, Solver, Symbolic, Value
from pocketformer.compiler.frontends.onnx_weights import Weights
from pocketformer.compiler.model import LARGEST_SIZE

LARGEST_INLINE = 16      # elements of a constant that stays in the graph; more make a weight
LONGEST_VECTOR = 4096    # of axes, pads, starts and the like
MOST_ELEMENTS = 2**33    # of one result: more is a malformed model, not one for a phone


class Builder:
    """Builds one dataflow block. `node` is the source operator whose code is being made.

    `note` is what a converter has to say of it in --explain.
    """

    def __init__(self, solver: Solver, source: Source, params: Sequence[relax.Var]) -> None:
        self.solver = solver
        self.source = source
        self.node = Node("", "", (), (), {}, 0)
        self.note = ""
        self.weights = Weights()
        self.intervals: dict[relax.Var, Any] = {}    # see bounds.py, which fills both
        self.columns: dict[relax.Var, list[Any]] = {}
        self._params = params
        self._block = relax.BlockBuilder()
        for param in params:
            self.weights.reserve(param.name)

    def __enter__(self) -> Builder:
        self._block.begin_scope(list(self._params))
        self._block._begin_dataflow_block()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:    # an open block would be complained about when it is destroyed
            self._block._end_block()
            self._block.end_scope()

    def finish(self, outputs: Sequence[relax.Expr]) -> relax.Function:
        """The function of the inputs and of those weights that the outputs follow from."""
        results = [
            self._block.emit_output(output) if isinstance(output, relax.DataflowVar) else output
            for output in outputs
        ]
        block = self._block._end_block()
        self._block.end_scope()
        body = self._block.normalize(relax.SeqExpr([block], relax.Tuple(results)))
        weights = self.weights.vars
        function = relax.Function([*self._params, *weights], body, body.ty)
        module = ir.IRModule({"main": function.with_attr("global_symbol", "main")})
        body = relax.transform.DeadCodeElimination()(module)["main"].body
        used = set(relax.analysis.all_vars(body))
        kept = [var for var in weights if var in used]
        function = relax.Function([*self._params, *kept], body, body.ty)
        attributes = {"global_symbol": "main", "num_input": len(self._params)}
        return function.with_attrs(attributes)

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

    def number(self, value: Value, what: str) -> Any:
        """The only element of a constant."""
        if (array := self.constant(value, what)).size != 1:
            raise BadModel(f"its {what} has {array.size} elements and not one")
        return array.reshape(-1)[0].item()

    def sizes(self, value: Value, what: str) -> list[Size]:
        """The elements of an integer vector or scalar; they may depend on sizes, not on data."""
        if not isinstance(value, (np.ndarray, Symbolic)):
            raise UnsupportedOperator(f"its {what} depends on the input's data")
        array = value if isinstance(value, np.ndarray) else value.array
        if array.ndim > 1 or array.size > LONGEST_VECTOR:
            raise BadModel(f"its {what} is no short vector")
        return [self.solver.simplify(element) for element in array.reshape(-1)]

    # -- making Relax ---------------------------------------------------------------------------

    def tensor(self, value: Value) -> relax.Expr:
        """`value` as something that a Relax call takes."""
        if isinstance(value, Symbolic):
            return self._materialised(value)
        if not isinstance(value, np.ndarray):
            return value
        # Booleans are masks, whose fusions look at the values.
        if value.size <= LARGEST_INLINE or value.dtype == np.bool_:
            return self.literal(value)
        return self.weights.var(value, f"{self.node.name}.constant")

    def literal(self, number: Any, dtype: str | None = None) -> relax.Expr:
        """A constant in the graph itself."""
        array = np.ascontiguousarray(np.asarray(number, dtype=dtype))
        return relax.const(tvm_tensor(array.reshape(np.shape(number))))

    def _materialised(self, value: Symbolic) -> relax.Expr:
        """One arange of length 1 for each element: an ordinary kernel, which can be fused."""
        if value.array.size > LARGEST_INLINE:
            raise UnsupportedOperator("it computes with more than 16 symbolic sizes at run time")
        parts = []
        for element in value.array.reshape(-1):
            size = self.solver.choose(element, 1, 0) if value.dtype == "bool" else element
            parts.append(R.arange(size, size + 1, 1, "int64"))
        flat = parts[0] if len(parts) == 1 else R.concat(parts, axis=0)
        shaped = R.reshape(flat, value.array.shape)
        return self.emit(shaped if value.dtype == "int64" else R.astype(shaped, value.dtype))

    def emit(self, tree: relax.Expr) -> relax.Expr:
        """Bind every call of `tree` as a step of the current node; returns the root's variable."""
        return self._bind(tree, f"{identifier(self.node.name)}_step", {})

    def emit_result(self, tree: relax.Expr, is_output: bool = False) -> relax.Expr:
        """The same, where the root is what the current node is for: it gets the node's name."""
        name = identifier(self.node.name)
        emit = self._block.emit_output if is_output else self._block.emit
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
            return self._block.emit(tree, name)
        if not _is_relax_call(tree):
            return tree
        if tree not in done:
            call = self._with_span(tree, [self._bind(arg, name, done) for arg in tree.args])
            done[tree] = self._checked(self._block.emit(call, name))
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
        elements = np.prod(known, dtype=float) if 0 not in known else 0.0
        if (
            any(size < 0 or size > LARGEST_SIZE for size in known)
            or len(shape) > HIGHEST_RANK
            or elements > MOST_ELEMENTS
        ):
            raise BadModel(f"its result would have the shape {tuple(shape)}")

    def reshape(self, value: Value, shape: Sequence[Size]) -> Value:
        """`value` in another shape of as many elements; constants stay constants."""
        known = [int(size) for size in shape if isinstance(size, int)]
        if isinstance(value, np.ndarray) and len(known) == len(shape):
            return self.weights.name_after(value.reshape(known), value)
        if isinstance(value, Symbolic) and len(known) == len(shape):
            return Symbolic(value.array.reshape(known), value.dtype)
        if self.same_shape(self.shape(value), shape):
            return value
        return self.emit(R.reshape(self.tensor(value), list(shape)))

    def require(self, given: Sequence[Size], wanted: Sequence[Size]) -> None:
        """See to it that two shapes of one rank, which the model needs to be equal, are.

        Two dimensions that have to be equal become one: MustBeEqual starts the import again. (TVM's
        match_cast would check at run time, but its CanonicalizeBindings drops or crashes on that.)
        """
        for size, other in zip(given, wanted, strict=True):
            if not self.solver.equal(size, other):
                self.solver.unify(size, other)
                raise UnsupportedOperator(
                    f"the sizes {size} and {other} have to be equal, which is not known; "
                    "fix the dimensions in them"
                )


Converter = Callable[[Builder, Node, list[Any]], Any]


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
