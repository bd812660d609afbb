"""softmax(q @ k.T * scale + mask) @ v  ->  attention(q, k, v, mask), [batch, length, heads, size].

What surrounds the products is looked through: transposes (also of a key that is transposed twice),
scales on either operand, masks that are added or selected, repeated key heads, a guard against NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from pocketformer.passes.attention_masks import HIDDEN, MASKED, split
from pocketformer.passes.attention_operands import axes_of, bshd, operand_of, scaled
from pocketformer.passes.fused_operators import BSHD_OF_BHSD, attention
from pocketformer.passes.fusion import Fusion, Search
from pocketformer.passes.graph import (
    Graph,
    Replacement,
    Size,
    dtype,
    emit,
    is_one,
    join_spans,
    normalize,
    op_name,
    same_sizes,
    scalar,
    shape,
    with_span,
)
from pocketformer.passes.refusal import Refused


@dataclass
class Scores:
    """The product that a softmax is taken of; each mask with the factor that scaled it later."""

    product: relax.Call
    scale: float
    masks: list[tuple[relax.Expr, float]]
    passed: list[relax.Expr]


class FuseAttention(Fusion):
    """Finds attention by its softmax; what is none stays as it is, with the reason logged."""

    def find(
        self, search: Search, var: relax.Var, call: relax.Expr
    ) -> tuple[relax.Var, Replacement] | None:
        """The attention whose softmax is `call`."""
        if op_name(call) != "relax.nn.softmax":
            return None
        return _match(search, var, call)


def _match(
    search: Search, probabilities: relax.Var, softmax: relax.Call
) -> tuple[relax.Var, Replacement]:
    graph = search.graph
    rank = len(shape(softmax))
    if dtype(softmax) != "float32":
        raise Refused(f"scores are {dtype(softmax)}, attention needs float32")
    if int(softmax.attrs.axis) not in (-1, rank - 1):
        raise Refused(f"softmax runs over axis {int(softmax.attrs.axis)} of {rank}")
    if rank not in (3, 4):
        raise Refused(f"scores have rank {rank}, attention needs 3 or 4")
    scores = _scores(graph, softmax.args[0])
    if not same_sizes(shape(scores.product), shape(softmax)):
        raise Refused("a mask gives the scores more axes or batches than their product has")
    out, guard = _weighted_sum(graph, probabilities)
    product = graph.producer[out]

    query = operand_of(graph, scores.product.args[0])
    key = operand_of(graph, scores.product.args[1])
    value = operand_of(graph, product.args[1])
    if key.repeats != value.repeats or query.repeats != 1:
        raise Refused("key heads and value heads are repeated differently")
    if value.scale != 1.0:
        raise Refused("the values are scaled")

    before: list[relax.VarBinding] = []
    name = out.name
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    args = [
        bshd(before, query, list(range(rank)), f"{name}_query"),
        bshd(before, key, swapped, f"{name}_key"),
        bshd(before, value, list(range(rank)), f"{name}_value"),
    ]
    _check_shapes(*map(shape, args))
    masks, causal = _split_masks(graph, scores.masks, args[0], args[1])
    if masks:
        args.append(_mask(before, masks, shape(softmax), f"{name}_mask"))
    scale = scores.scale * query.scale * key.scale
    options: dict[str, Any] = {"scale": scale, **({"causal": True} if causal else {})}
    passed = [*query.passed, *key.passed, *value.passed, scores.product, *scores.passed]
    span = join_spans([*passed, softmax, *guard, product])
    call = search.composites.call(
        "attention", args, lambda *a: attention(*a, **options), options, span
    )
    return _place(graph, out, call, rank, before)


def _check_shapes(query: list[Size], key: list[Size], value: list[Size]) -> None:
    """A product may broadcast its operands, which the kernels do for key heads alone."""
    if not all(isinstance(size, int) for size in [*query[2:], *key[2:], *value[2:]]):
        raise Refused("the number of heads or their size is not a constant")
    if not same_sizes(key[:3], value[:3]):
        raise Refused("keys and values differ in shape")
    if not same_sizes(query[:1], key[:1]):
        raise Refused(f"the batch of queries is {query[0]}, that of keys {key[0]}")
    if query[2] % key[2]:
        raise Refused(f"{key[2]} key heads cannot serve {query[2]} query heads")


def _scores(graph: Graph, expr: relax.Expr) -> Scores:
    """Walk from a softmax up to the product of queries and keys."""
    scale = 1.0
    masks: list[tuple[relax.Expr, float]] = []
    passed: list[relax.Expr] = []
    while True:
        call = graph.value(expr)
        name = op_name(call)
        if name == "relax.matmul":
            return Scores(call, scale, masks, passed[::-1])
        passed.append(call)
        if name == "relax.add":
            product, mask = call.args if _is_product(graph, call.args[0]) else call.args[::-1]
            masks.append((mask, scale))
        elif name == "relax.where":
            product, mask = _selected(graph, call, last=not masks)
            masks.append((mask, scale))
        elif name in ("relax.multiply", "relax.divide"):
            product, factor = scaled(graph, call)
            scale *= factor
        else:
            raise Refused(f"softmax is taken of {name or 'an input'}, not of a product")
        expr = product


def _is_product(graph: Graph, expr: relax.Expr) -> bool:
    call = graph.value(expr)
    match op_name(call):
        case "relax.matmul":
            return True
        case "relax.add":
            return any(_is_product(graph, arg) for arg in call.args)
        case "relax.multiply" | "relax.divide":
            return any(scalar(arg) is not None for arg in call.args) and any(
                _is_product(graph, arg) for arg in call.args
            )
        case "relax.where":
            return any(_is_product(graph, arg) for arg in call.args[1:])
    return False


def _selected(graph: Graph, call: relax.Call, last: bool) -> tuple[relax.Expr, relax.Expr]:
    """The scores of where(condition, scores, -inf) in either order, and the mask that it adds.

    `last` tells that no other mask is added to what was selected.
    """
    condition, if_true, if_false = call.args
    zero = relax.const(0.0, "float32")
    for kept, other, order in ((if_true, if_false, (0, 1)), (if_false, if_true, (1, 0))):
        fill = scalar(graph.value(other))
        if fill is not None and _is_product(graph, kept):
            if fill > MASKED:
                raise Refused(f"masked scores become {fill}, not -infinity")
            values = (zero, relax.const(min(fill, HIDDEN) if last else fill, "float32"))
            mask = relax.op.where(condition, values[order[0]], values[order[1]])
            return kept, with_span(mask, call.span)
    raise Refused("scores are selected from something that is no constant")


def _weighted_sum(graph: Graph, var: relax.Var) -> tuple[relax.Var, list[relax.Expr]]:
    """The product with the values, and the guard where(isnan(p), 0, p) before it, if any."""
    if var in graph.outputs:
        raise Refused("the attention probabilities are an output")
    guard: list[relax.Expr] = []
    users = graph.users.get(var, [])
    is_nan = next((u for u in users if graph.is_call(u, "relax.isnan")), None)
    if is_nan is not None:
        selected = graph.only_user(is_nan)
        select: Any = graph.value(selected) if selected is not None else None
        if op_name(select) != "relax.where" or scalar(graph.value(select.args[1])) != 0.0:
            raise Refused("the attention probabilities are tested for NaN in an unknown way")
        guard = [graph.producer[is_nan], select]
        var, users = selected, graph.users.get(selected, [])
    if len(users) != 1 or not graph.is_call(users[0], "relax.matmul"):
        raise Refused("the attention probabilities are used by more than a product with the values")
    if not graph.producer[users[0]].args[0].same_as(var):
        raise Refused("the attention probabilities are not the left operand of the product")
    return users[0], guard


def _split_masks(
    graph: Graph, masks: list[tuple[relax.Expr, float]], query: relax.Expr, key: relax.Expr
) -> tuple[list[tuple[relax.Expr, float]], bool]:
    """The masks without what is always so or tells that later keys are hidden; whether one does."""
    kept, causal = [], False
    for mask, factor in masks:
        found = split(graph, mask, shape(query)[1], shape(key)[1])
        causal |= found.causal
        if found.mask is not None:
            kept.append((found.mask, factor))
    return kept, causal


def _mask(
    before: list[relax.VarBinding],
    masks: list[tuple[relax.Expr, float]],
    scores: list[Size],
    name: str,
) -> relax.Expr:
    """The sum of all masks as [batch or 1, heads or 1, length or 1, key length]."""
    total: relax.Expr | None = None
    for mask, factor in masks:
        term = mask if isinstance(mask, relax.Var) else emit(before, mask, name)
        if factor != 1.0:
            term = emit(before, relax.op.multiply(term, relax.const(factor, "float32")), name)
        total = term if total is None else emit(before, relax.op.add(total, term), name)
    sizes = shape(total)
    if len(sizes) > len(scores):
        raise Refused(f"the mask has rank {len(sizes)}, the scores have {len(scores)}")
    sizes = [1] * (len(scores) - len(sizes)) + sizes
    for axis, (size, full) in enumerate(zip(sizes, scores, strict=True)):
        if not is_one(size) and not same_sizes([size], [full]):
            raise Refused(f"axis {axis} of the mask is {size}, that of the scores {full}")
    if len(sizes) == 3:
        sizes.insert(1, 1)
    if not same_sizes(shape(total), sizes):
        total = emit(before, relax.op.reshape(total, sizes), name)
    if not same_sizes(sizes[-1:], scores[-1:]):
        total = emit(before, relax.op.broadcast_to(total, [*sizes[:-1], scores[-1]]), name)
    return total


def _place(
    graph: Graph, out: relax.Var, call: relax.Call, rank: int, before: list[relax.VarBinding]
) -> tuple[relax.Var, Replacement]:
    """Put `call` where the product with the values stood, or better, where it was transposed."""
    if rank == 4:
        user = graph.only_user(out)
        transpose = graph.value(user) if user is not None else None
        if op_name(transpose) == "relax.permute_dims" and axes_of(transpose) == BSHD_OF_BHSD:
            return user, Replacement(normalize(call, join_spans([call, transpose])), before)
        heads = emit(before, call, f"{out.name}bshd")
        back = normalize(relax.op.permute_dims(heads, BSHD_OF_BHSD), call.span)
        return out, Replacement(back, before)
    heads = emit(before, call, f"{out.name}bshd")
    back = normalize(relax.op.reshape(heads, graph.producer[out].ty.shape), call.span)
    return out, Replacement(back, before)


