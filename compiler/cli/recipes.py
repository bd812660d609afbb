"""The options of a recipe, for every command that takes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketformer.compiler.cli.common import key_values
from pocketformer.compiler.errors import BadInput, BadRecipe

if TYPE_CHECKING:
    from pocketformer.compiler.recipe import Recipe

PANEL = "Recipe"

RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe", "-r",
        help="How to store numbers: float32, bfloat16, float16, int8, int8-dynamic or int4.",
        rich_help_panel=PANEL,
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER",
        help="Real inputs for int8 and int4: an .npz file, a folder of them, or a .txt file with a "
        "text a line.",
        rich_help_panel=PANEL,
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=RECIPE",
        help="Another recipe for the layers whose names match, such as '*layer.0.*=bfloat16'. May "
        "be repeated; the first that matches counts.",
        rich_help_panel=PANEL,
    ),
]
Observer = Annotated[
    str | None,
    typer.Option(
        help="How int8 finds ranges: minmax, average, percentile, entropy or mse.",
        show_default="mse", rich_help_panel=PANEL,
    ),
]
Activations = Annotated[
    str | None,
    typer.Option(
        help="Whether int8 has a range for each tensor or token.",
        show_default="tensor", rich_help_panel=PANEL,
    ),
]
Smooth = Annotated[
    str | None,
    typer.Option(
        metavar="ALPHA",
        help="How much of activations' reach int8 moves into weights: 0 to 1, auto or none.",
        show_default="auto", rich_help_panel=PANEL,
    ),
]
BiasCorrection = Annotated[
    bool | None,
    typer.Option(
        "--bias-correction/--no-bias-correction",
        help="Take int8's mean error off a layer's bias.",
        show_default="yes", rich_help_panel=PANEL,
    ),
]
Equalize = Annotated[
    bool | None,
    typer.Option(
        "--equalize/--no-equalize",
        help="Scale channels of neighbouring layers to equal ranges for int8.",
        show_default="no", rich_help_panel=PANEL,
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(
        help="Scales of int8: float, or power_of_two.",
        show_default="float", rich_help_panel=PANEL,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        help="What attention multiplies in an int8 model: int8, bfloat16 or float32.",
        show_default="int8", rich_help_panel=PANEL,
    ),
]
Embeddings = Annotated[
    str | None,
    typer.Option(
        help="Lookup tables of int8 and int4: int4 (with int4), int8 or float32.",
        show_default="the recipe's own", rich_help_panel=PANEL,
    ),
]
Group = Annotated[
    int | None,
    typer.Option(
        help="Weights of int4 that share a scale: 32, 64 or 128.",
        show_default="32", rich_help_panel=PANEL,
    ),
]


def recipe_from(
    name: str,
    calibrate: Path | None,
    override: Sequence[str] | None,
    smooth: str | None,
    **options: Any,
) -> Recipe:
    """The recipe `name` with the options that were given, those that are not None.

    Raises BadRecipe for an option that the recipe does not have or that has another value.
    """
    from pocketformer.compiler.recipe import RECIPES, recipe_named

    recipe = recipe_named(name)
    given = {
        "calibration": calibrate,
        "overrides": key_values(override, "--override") or None,
        "smooth": smooth,
        **options,
    }
    given = {option: value for option, value in given.items() if value is not None}
    for option in given:
        if option not in _options(recipe):
            owners = [each for each, make in RECIPES.items() if option in _options(make())]
            raise BadRecipe(f"{_flag(option)} goes with {' and '.join(owners)}, not with {name}")
    if smooth is not None:
        given["smooth"] = _alpha(smooth)
    if calibrate is not None and not calibrate.exists():
        raise BadInput(f"there is no file or folder {calibrate}")
    return replace(recipe, **given)


def _options(recipe: Recipe) -> set[str]:
    return {field.name for field in fields(recipe)}


def _flag(option: str) -> str:
    flags = {"calibration": "--calibrate", "overrides": "--override"}
    return flags.get(option, "--" + option.replace("_", "-"))


def _alpha(text: str) -> float | str | None:
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError:
        raise BadRecipe(
            f"--smooth takes a number from 0 to 1, auto or none, not {text!r}"
        ) from None
