"""How a model's numbers are stored and computed: a recipe is a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pocketformer.compiler.errors import BadRecipe


@dataclass(frozen=True)
class Float32:
    """Weights and arithmetic in float32, as in the source."""

    name = "float32"


@dataclass(frozen=True)
class BFloat16:
    """Linear layers multiply in bfloat16 and add up in float32; all else stays float32.

    Their weights are stored in half the bytes. Works on every target, fast on those with
    instructions for bfloat16.
    """

    name = "bfloat16"


Recipe: TypeAlias = Float32 | BFloat16
RECIPES: dict[str, type[Recipe]] = {recipe.name: recipe for recipe in (Float32, BFloat16)}


def recipe_named(name: str) -> Recipe:
    """The recipe of this name with its default options. Raises BadRecipe, which lists them."""
    if name not in RECIPES:
        raise BadRecipe(f"no recipe {name!r}; one of {', '.join(RECIPES)}")
    return RECIPES[name]()
