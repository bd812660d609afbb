"""What a device that misbehaves runs, and the runtime of this machine."""

from pathlib import Path

import pytest

from pocketformer import runtime
from pocketformer.runtime import Runtime
from tests.runtime.device_server import kernels


@pytest.fixture(scope="session")
def bad_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def host_runtime() -> Runtime:
    return runtime.build("host")
