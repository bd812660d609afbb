"""Emulated phones, one of each kind for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pocketformer.compiler.device.emulator import Phone
from tests.device.phones import running


@pytest.fixture(scope="session")
def phone() -> Iterator[Phone]:
    """Cortex-A76 cores: NEON, dot products, half floats."""
    with running("cortex-a76") as phone:
        yield phone


@pytest.fixture(scope="session")
def phone_max() -> Iterator[Phone]:
    """All that the emulator knows: also i8mm, bfloat16 and SVE2."""
    with running("max") as phone:
        yield phone
