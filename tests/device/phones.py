"""Emulated phones for tests: started once, and only where this machine can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pocketformer.compiler.device.emulator import Phone
from pocketformer.compiler.errors import SetUpFailed

TOKEN = "the-token-of-the-tests"


@contextmanager
def running(cpu: str) -> Iterator[Phone]:
    """A phone that knows TOKEN. Without apt or network the test is left out, but never in CI."""
    try:
        phone = Phone.start(cpu, token=TOKEN)
    except SetUpFailed as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with phone:
        yield phone
