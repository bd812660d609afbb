"""Recipes: from a name to a bundle that computes what the source does, nearly."""

import numpy as np
import pytest

import pocketformer as pf
from pocketformer.compiler.recipe import RECIPES, recipe_named
from tests.encoder import encoder, inputs
from tests.numerics.check import reference
from tests.numerics.tolerance import TOLERANCE


def test_a_recipe_is_known_by_its_name():
    assert [recipe_named(name).name for name in RECIPES] == list(RECIPES)
    with pytest.raises(pf.BadRecipe, match="no recipe 'int3'; one of float32, bfloat16"):
        recipe_named("int3")


def test_bfloat16_stores_linears_in_half_the_bytes_and_computes_nearly_the_same(tmp_path):
    proto = encoder()
    bundle = pf.compile(proto, "host", dims={"seq": "1..40"}, recipe=pf.BFloat16())
    bundle.save(tmp_path / "encoder.pf")
    bundle = pf.Bundle.load(tmp_path / "encoder.pf")
    assert bundle.manifest.recipe == "bfloat16"
    matrices = [array for array in bundle.weights.values() if array.ndim == 4]
    assert matrices
    assert all(array.dtype == "bfloat16" for array in matrices)
    session = pf.Session(bundle)
    for seq in (1, 9, 40):
        given = inputs(1, seq)
        for found, expected in zip(
            session.run(**given).values(), reference(proto, given), strict=True
        ):
            limit = TOLERANCE["bfloat16"] * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
