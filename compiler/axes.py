"""Axes of a signature: "2*seq + 1" as a small formula over named dimensions."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import cache

from pocketformer.compiler.errors import BadDim
from pocketformer.compiler.model import Axis

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"min": min, "max": max}


def names_in(axis: Axis) -> frozenset[str]:
    """The named dimensions that `axis` mentions. Raises BadDim where it is no formula."""
    return _names(_parse(axis)) if isinstance(axis, str) else frozenset()


def evaluate(axis: Axis, sizes: Mapping[str, int]) -> int:
    """The size of `axis`, which may name the dimensions of `sizes` alone. Raises BadDim."""
    if isinstance(axis, int):
        return axis
    try:
        return _evaluate(_parse(axis), sizes)
    except ZeroDivisionError:
        raise BadDim(f"the axis {axis!r} divides by zero") from None


def solve(axis: str, size: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """`sizes` with the one dimension that `axis` still lacks, so that `axis` becomes `size`.

    Without it where none or several are lacking, or where no whole number fits: the caller, who
    evaluates `axis` afterwards, reports that.
    """
    lacking = names_in(axis) - sizes.keys()
    if len(lacking) != 1:
        return dict(sizes)
    (name,) = lacking
    # Axes are linear in practice: two points give the line. Any other formula fails the check.
    at_1, at_2 = (evaluate(axis, {**sizes, name: value}) for value in (1, 2))
    if at_1 == at_2:
        return dict(sizes)
    return {**sizes, name: 1 + (size - at_1) // (at_2 - at_1)}


@cache
def _parse(text: str) -> ast.expr:
    bad = BadDim(f"the axis {text!r} is no formula in named dimensions")
    if len(text) > 500:
        raise bad
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise bad from None
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            continue
        if isinstance(node, ast.Constant) and type(node.value) is int:
            continue
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id not in _FUNCTIONS or node.keywords or not node.args:
                raise bad
            continue
        if not isinstance(node, (ast.Name, ast.operator, ast.unaryop, ast.expr_context)):
            raise bad
    return tree


def _names(node: ast.expr) -> frozenset[str]:
    if isinstance(node, ast.Name):
        return frozenset({node.id})
    below = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return frozenset().union(*(_names(child) for child in below if isinstance(child, ast.expr)))


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.Name(id=name):
            if name not in sizes:
                raise BadDim(f"nothing tells the size of the dimension {name}")
            return sizes[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, sizes), _evaluate(right, sizes))
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, sizes)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_evaluate(arg, sizes) for arg in args))
    raise AssertionError(ast.dump(node))
