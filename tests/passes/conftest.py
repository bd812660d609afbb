"""What the tests of rewriting passes share: the same numbers, and the reasons for a refusal."""

import logging

import numpy as np
import pytest

from tests.passes.graphs import random, run

ATOL = {"float32": 2e-6}    # of values around 1: an erf or a root is a few units in the last place


@pytest.fixture
def agree():
    """Check that two modules compute the same from fresh random arrays."""

    def check(before, after):
        params = before["main"].params
        arrays = random(*([int(size) for size in param.ty.shape] for param in params))
        for want, got in zip(run(before, *arrays), run(after, *arrays), strict=True):
            assert np.abs(want).max() > 0.1
            np.testing.assert_allclose(got, want, rtol=0, atol=ATOL[str(want.dtype)] * 8)

    return check


@pytest.fixture
def reasons(caplog):
    """The (operators, reason) that passes have logged for what they left alone."""
    caplog.set_level(logging.INFO, "pocketformer.passes")
    return lambda: [(record.operators, record.reason) for record in caplog.records]
