"""What a device that misbehaves runs."""

from pathlib import Path

import pytest

from tests.runtime.device_server import kernels


@pytest.fixture(scope="session")
def bad_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernels(tmp_path_factory.mktemp("kernels"))
