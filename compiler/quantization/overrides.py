"""Which recipe each layer has: the recipe's own, or that of the first override for its names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from pocketformer.compiler.errors import BadRecipe
from pocketformer.compiler.quantization.layers import Layer
from pocketformer.compiler.recipe import Recipe, chosen_recipe

SHOWN = 4    # names that an error lists


def recipes_of(layers: Iterable[Layer], recipe: Recipe) -> Callable[[Layer], Recipe]:
    """What gives a layer's recipe. Raises BadRecipe for an override that matches none of them."""
    patterns = getattr(recipe, "overrides", {})
    names = list(dict.fromkeys(name for layer in layers for name in layer.names))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadRecipe(_lost(pattern, names))
    overrides = [(pattern, chosen_recipe(given)) for pattern, given in patterns.items()]

    def of(layer: Layer) -> Recipe:
        for pattern, own in overrides:
            if any(fnmatchcase(name, pattern) for name in layer.names):
                return own
        return recipe

    return of


def _lost(pattern: str, names: list[str]) -> str:
    if not names:
        return f"the override {pattern!r} matches no layer: the model has none to quantise"
    near = get_close_matches(pattern.replace("*", ""), names, SHOWN, cutoff=0.3) or names[:SHOWN]
    listed = ", ".join(map(repr, near))
    return f"the override {pattern!r} matches no layer; near names are {listed}"
