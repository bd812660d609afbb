"""What a device that misbehaves runs, and the runtime of this machine."""

import os
from pathlib import Path

import pytest

from pocketformer import runtime
from pocketformer.compiler.device.emulator import set_up
from pocketformer.compiler.errors import SetUpFailed
from pocketformer.runtime import Runtime
from tests.runtime.device_server import kernels


@pytest.fixture(scope="session")
def bad_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="session")
def host_runtime() -> Runtime:
    return runtime.build("host")


@pytest.fixture(scope="session")
def emulator() -> None:
    """The emulated phone. Without apt or network its tests are left out, not in CI."""
    try:
        set_up()
    except SetUpFailed as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
