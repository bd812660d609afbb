"""How a model's numbers are stored and computed: a recipe is a frozen dataclass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from pocketformer.compiler.errors import BadRecipe

if TYPE_CHECKING:
    from pocketformer.targets import Target

ACTIVATIONS = ("tensor", "token")
OBSERVERS = ("minmax", "average", "percentile", "entropy", "mse")
SCALES = ("float", "power_of_two")
GROUPS = (32, 64, 128)
AUTO = "auto"


@dataclass(frozen=True)
class Float32:
    """Weights and arithmetic in float32, as in the source."""

    name = "float32"


@dataclass(frozen=True)
class BFloat16:
    """Linear layers and attention multiply in bfloat16 and add up in float32.

    Round to nearest, ties to even. The weights of linear layers, and activations that products
    alone read, are stored in half the bytes; norms, softmax and residual sums are float32. GELU and
    SiLU after a linear layer are within 2.3e-4 * |x|, an eighth of what x's own factors were
    rounded by. Works on every target, fast on those with instructions for bfloat16; attention stays
    in float32 on those without.
    """

    name = "bfloat16"


@dataclass(frozen=True)
class Float16:
    """Linear layers multiply and add up 128 products in float16; all else stays float32.

    For models whose activations stay far below 65504, on Arm processors with float16 arithmetic.
    """

    name = "float16"


@dataclass(frozen=True)
class Int8:
    """Linear layers and attention multiply int8 and add up in int32 (W8A8).

    Weights are symmetric, with a scale for each output channel: w_q = round(w / max|w| * 127). With
    calibration the rounding of a weight makes up for that of those before it (GPTQ: Frantar et al.,
    2022); without, it is to the nearest.

    Activations are affine: x_q = round((x - min) / (max - min) * 255) - 128, with 0 kept exact
    (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
    Only Inference", 2018). Ranges of activations are those that `observer` finds in `calibration`:
    the outermost values (minmax), their moving average over batches (average), all but a hundredth
    of a percent of the values (percentile), the least Kullback-Leibler divergence (entropy; Migacz,
    "8-bit Inference with TensorRT", 2017) or the least squared error (mse). Percentile and entropy
    do not weigh how far outside a value lies, and may cut off rare great ones that answers hang on.
    With `activations` of "token", or `dynamic`, each row has a range of its own, computed while the
    model runs; `dynamic` needs no calibration.

    `smooth` is the alpha of SmoothQuant (Xiao et al., 2023): s_j = max|x_j|^alpha /
    max|w_j|^(1 - alpha) moves from activations to weights; "auto" takes for each layer the one with
    the least error on the calibration's rows, None moves nothing. `bias_correction` takes the mean
    error of a layer's output off its bias, `equalize` scales channels of neighbouring linear layers
    with at most a relu between to equal ranges (Nagel et al., "Data-Free Quantization Through
    Weight Equalization and Bias Correction", 2019) in place of `smooth`. All three need
    calibration: without, they do nothing. `scales` of "power_of_two" are rounded up to those
    (logarithmic scales), but not those of rows.

    `attention` is the dtype of what attention multiplies: int8, bfloat16 or float32. In int8 its
    queries, keys and values are symmetric, by the ranges of the whole tensors; without calibration,
    which finds these, by those of each query of a head, of its keys and of its values, computed
    while the model runs: also on processors with instructions for bfloat16 that is the fastest.
    Fewer than 8 queries, as in decoding, are computed in float32. `embeddings` is the dtype of
    lookup tables, int8 with a scale a row, or float32. `overrides` are recipes, or their names, for
    the layers whose operators' names match a pattern, such as {"*/layer.0/*": "bfloat16"}; the
    first that matches counts.

    `calibration` are batches: an iterable of dicts of arrays by input name, the path of an .npz
    file or of a folder of them, or texts (a list, or the path of a .txt file with one a line) for a
    model from a folder with a tokenizer.
    """

    calibration: Any = field(default=None, compare=False, repr=False)
    dynamic: bool = False
    activations: str = "tensor"
    observer: str = "mse"
    smooth: float | str | None = AUTO
    bias_correction: bool = True
    equalize: bool = False
    scales: str = "float"
    attention: str = "int8"
    embeddings: str = "int8"
    overrides: Mapping[str, Recipe | str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check("activations", self.activations, ACTIVATIONS)
        _check("observer", self.observer, OBSERVERS)
        _check("scales", self.scales, SCALES)
        _check("attention", self.attention, ("int8", "bfloat16", "float32"))
        _check("embeddings", self.embeddings, ("int8", "float32"))
        for name in ("dynamic", "bias_correction", "equalize"):
            if not isinstance(getattr(self, name), bool):
                raise BadRecipe(f"{name} is {getattr(self, name)!r}; one of True, False")
        if self.smooth not in (AUTO, None) and not _is_share(self.smooth):
            raise BadRecipe(f"smooth is {self.smooth!r}, it must lie in [0, 1], be 'auto' or None")
        object.__setattr__(self, "overrides", checked_overrides(self.overrides))

    @property
    def name(self) -> str:
        return "int8-dynamic" if self.dynamic else "int8"

    @property
    def by_token(self) -> bool:
        """Whether the ranges of activations are computed while the model runs."""
        return self.dynamic or self.activations == "token"


@dataclass(frozen=True)
class Int4Weights:
    """The weights of linear layers and lookup tables have 4 bits; activations stay float32.

    Each `group` of neighbours along k has a scale: w_q = round(w / scale), from -8 to 7. Scales are
    those with the least squared error, of the weights or, with `calibration` (see Int8), of the
    layer's results; then the rounding of a weight makes up for that of those before it (GPTQ:
    Frantar et al., 2022), and the bias for the mean error of the results. `embeddings` is the dtype
    of lookup tables: int4, int8 or float32. `overrides` are as for Int8.
    """

    group: int = 32
    calibration: Any = field(default=None, compare=False, repr=False)
    embeddings: str = "int4"
    overrides: Mapping[str, Recipe | str] = field(default_factory=dict, hash=False)

    name = "int4"

    def __post_init__(self) -> None:
        _check("group", self.group, GROUPS)
        _check("embeddings", self.embeddings, ("int4", "int8", "float32"))
        object.__setattr__(self, "overrides", checked_overrides(self.overrides))


Recipe: TypeAlias = Float32 | BFloat16 | Float16 | Int8 | Int4Weights
RECIPES: dict[str, Callable[[], Recipe]] = {
    "float32": Float32,
    "bfloat16": BFloat16,
    "float16": Float16,
    "int8": Int8,
    "int8-dynamic": lambda: Int8(dynamic=True),
    "int4": Int4Weights,
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


def is_quantized(recipe: Recipe) -> TypeGuard[Int8 | Int4Weights]:
    """Whether it decides for each layer what it computes with, from weights and calibration."""
    return isinstance(recipe, (Int8, Int4Weights))


def check_recipe(recipe: Recipe, target: Target) -> None:
    """Raises BadRecipe where `target` cannot compute as `recipe` says, or data is missing."""
    if isinstance(recipe, Int8) and not recipe.dynamic and recipe.calibration is None:
        raise BadRecipe(
            "the recipe int8 needs calibration data: Int8(calibration=batches), or --calibrate "
            "data.npz; int8-dynamic needs none"
        )
    overrides, data = (recipe.overrides, recipe.calibration) if is_quantized(recipe) else ({}, None)
    for pattern, given in overrides.items():
        own = chosen_recipe(given)
        if isinstance(own, Int8) and not own.dynamic and data is None:
            raise BadRecipe(
                f"the override {pattern!r} is int8, which needs calibration data: give it to the "
                "recipe, or take int8-dynamic"
            )
    for each in (recipe, *map(chosen_recipe, overrides.values())):
        needs_fp16 = isinstance(each, Float16)
        if needs_fp16 and not (target.arch == "aarch64" and "fp16" in target.isa):
            raise BadRecipe(
                f"the recipe float16 needs a 64-bit Arm processor with fp16, {target.name} is "
                f"none; bfloat16 works on every target"
            )


def checked_overrides(overrides: object) -> dict[str, Recipe | str]:
    """A copy. Raises BadRecipe where one is no recipe, or has overrides of its own."""
    if not isinstance(overrides, Mapping):
        raise BadRecipe(
            f"overrides are of type {type(overrides).__name__}; give a dict of recipes by pattern"
        )
    for pattern, given in overrides.items():
        if not isinstance(pattern, str):
            raise BadRecipe(f"the pattern {pattern!r} of an override is no text")
        if given is None:
            raise BadRecipe(f"override {pattern!r} has no recipe; float32 is one")
        try:
            recipe = chosen_recipe(given)
        except BadRecipe as error:
            raise BadRecipe(f"override {pattern!r}: {error}") from None
        if getattr(recipe, "overrides", None):
            raise BadRecipe(f"override {pattern!r} has overrides of its own")
        if getattr(recipe, "calibration", None) is not None:
            raise BadRecipe(
                f"override {pattern!r} has calibration data of its own; the recipe's is for all"
            )
    return dict(overrides)


def _is_share(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return 0 <= float(value) <= 1


def _check(name: str, value: object, choices: tuple[object, ...]) -> None:
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise BadRecipe(f"{name} is {value!r}; one of {', '.join(map(str, choices))}")
