"""Recipes: from a name to a bundle that computes what the source does, nearly."""

import numpy as np
import pytest

import pocketformer as pf
from pocketformer import targets
from pocketformer.compiler.recipe import RECIPES, recipe_named
from tests.compiler.tiny import one_sentence
from tests.device.phones import TOKEN, running
from tests.encoder import encoder, inputs
from tests.numerics.check import reference
from tests.numerics.tolerance import TOLERANCE


def test_a_recipe_is_known_by_its_name():
    assert [recipe_named(name).name for name in RECIPES] == list(RECIPES)
    with pytest.raises(pf.BadRecipe, match="no recipe 'int3'; one of float32, bfloat16, float16"):
        recipe_named("int3")


@pytest.mark.parametrize("given", ["bfloat16", pf.BFloat16()], ids=["name", "instance"])
def test_compile_takes_a_recipe_or_its_name(given):
    assert pf.compile(encoder(), "host", recipe=given).manifest.recipe == "bfloat16"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("BFloat16", "no recipe 'BFloat16'"),
        ("", "no recipe ''"),
        (pf.BFloat16, "the recipe is the class BFloat16; give it by name"),
        (16, "the recipe is of type int; give it by name"),
        (False, "the recipe is of type bool; give it by name"),
    ],
    ids=str,
)
def test_what_is_no_recipe_is_told_the_names(given, words):
    with pytest.raises(pf.BadRecipe) as error:
        pf.compile(encoder(), "host", recipe=given)
    text = one_sentence(error)
    assert text.startswith(words)
    assert "one of float32, bfloat16, float16" in text


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (pf.Int8, {"overrides": [("a", "bfloat16")]}, "overrides are of type list; give a dict"),
        (pf.Int8, {"overrides": {1: "bfloat16"}}, "the pattern 1 of an override is no text"),
        (pf.Int8, {"overrides": {"a": None}}, "override 'a' has no recipe"),
        (pf.Int8, {"smooth": [1]}, "smooth is [1], it must lie in [0, 1]"),
        (pf.Int8, {"smooth": "0.5"}, "smooth is '0.5', it must lie in [0, 1]"),
        (pf.Int8, {"dynamic": "no"}, "dynamic is 'no'; one of True, False"),
        (pf.Int8, {"observer": ["mse"]}, "observer is ['mse']; one of minmax"),
        (pf.Int4Weights, {"group": 32.0}, "group is 32.0; one of 32, 64, 128"),
    ],
    ids=lambda each: str(each) if isinstance(each, dict) else "",
)
def test_an_option_of_the_wrong_kind_is_refused_at_once(make, fields, words):
    with pytest.raises(pf.BadRecipe) as error:
        make(**fields)
    assert one_sentence(error).startswith(words)


def test_a_recipe_can_be_a_key_and_keeps_its_overrides():
    overrides = {"a": "bfloat16"}
    recipe = pf.Int8(overrides=overrides)
    overrides["b"] = "float32"
    assert recipe.overrides == {"a": "bfloat16"}
    assert {recipe: 1}[pf.Int8(overrides={"a": "bfloat16"})] == 1


def test_float16_is_refused_where_the_processor_has_no_arithmetic_for_it():
    for name in ("host", "arm64-android"):
        with pytest.raises(pf.BadRecipe, match=f"{name} is none; bfloat16 works"):
            pf.compile(encoder(), name, recipe=pf.Float16())


def test_float16_runs_on_the_phone():
    proto = encoder()
    target = targets.load("raspberrypi5")
    bundle = pf.compile(proto, target, dims={"seq": 9}, recipe=pf.Float16())
    given = inputs(1, 9)
    with running("cortex-a76") as phone:
        found = pf.Session(bundle, device=phone.address, token=TOKEN).run(**given)
    close(found, reference(proto, given), "float16")


def test_bfloat16_stores_linears_in_half_the_bytes_and_computes_nearly_the_same(tmp_path):
    proto = encoder()
    bundle = pf.compile(proto, "host", dims={"seq": 9}, recipe=pf.BFloat16())
    bundle.save(tmp_path / "encoder.pf")
    bundle = pf.Bundle.load(tmp_path / "encoder.pf")
    assert bundle.manifest.recipe == "bfloat16"
    matrices = [array for array in bundle.weights.values() if array.ndim == 4]
    assert matrices
    assert all(array.dtype == "bfloat16" for array in matrices)
    given = inputs(1, 9)
    close(pf.Session(bundle).run(**given), reference(proto, given), "bfloat16")


def close(outputs, references, dtype):
    for found, expected in zip(outputs.values(), references, strict=True):
        limit = TOLERANCE[dtype] * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
