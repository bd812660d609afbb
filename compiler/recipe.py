"""How a model's numbers are stored and computed: a recipe is a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pocketformer.compiler.errors import BadRecipe

if TYPE_CHECKING:
    from pocketformer.targets import Target


@dataclass(frozen=True)
class Float32:
    """Weights and arithmetic in float32, as in the source."""

    name = "float32"


@dataclass(frozen=True)
class BFloat16:
    """Linear layers and attention multiply in bfloat16 and add up in float32; all else is float32.

    GELU and SiLU after a linear layer are within 2.3e-4 * |x|, an eighth of what x's own factors
    were rounded by. The weights of linear layers are stored in half the bytes. Works on every
    target, fast on those with instructions for bfloat16; attention stays in float32 on those
    without.
    """

    name = "bfloat16"


@dataclass(frozen=True)
class Float16:
    """Linear layers multiply and add up 128 products in float16; all else stays float32.

    For models whose activations stay far below 65504, on Arm processors with float16 arithmetic.
    """

    name = "float16"


Recipe: TypeAlias = Float32 | BFloat16 | Float16
RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe for recipe in (Float32, BFloat16, Float16)
}


def recipe_named(name: str) -> Recipe:
    """The recipe of this name with its default options. Raises BadRecipe, which lists them."""
    if name not in RECIPES:
        raise BadRecipe(f"no recipe {name!r}; one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def chosen_recipe(given: Recipe | str | None) -> Recipe:
    """The recipe `given`, or of this name; float32 for None. Raises BadRecipe for anything else."""
    if given is None:
        return Float32()
    if isinstance(given, str):
        return recipe_named(given)
    if isinstance(given, Recipe):
        return given
    if isinstance(given, type):
        found = f"the class {given.__name__}"
    else:
        found = f"of type {type(given).__name__}"
    raise BadRecipe(
        f"the recipe is {found}; give it by name, one of {', '.join(RECIPES)}, "
        f"or as an instance, like BFloat16()"
    )


def check_recipe(recipe: Recipe, target: Target) -> None:
    """Raises BadRecipe where `target` cannot compute as `recipe` says."""
    if isinstance(recipe, Float16) and not (target.arch == "aarch64" and "fp16" in target.isa):
        raise BadRecipe(
            f"the recipe float16 needs a 64-bit Arm processor with fp16, {target.name} is none; "
            f"bfloat16 works on every target"
        )
