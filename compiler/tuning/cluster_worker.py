"""What a worker of a dask cluster does for us. It needs this package, and TVM, as we have them."""

from __future__ import annotations

import threading
from importlib.metadata import version

import pocketformer
from pocketformer.compiler.tuning.builder import LocalBuilders
from pocketformer.compiler.tuning.job import Job

_own = threading.local()    # dask keeps the threads that work for it


def versions() -> dict[str, str]:
    """What decides which code comes out of a build; TVM's wheel brings its LLVM."""
    return {"pocketformer": pocketformer.__version__, "TVM": version("apache-tvm")}


def build(job: Job, timeout: float) -> bytes:
    """The bundle of `job`, built in a process that is killed after `timeout` seconds.

    dask itself neither limits a task's time nor ends one. Raises BuildFailed.
    """
    if not hasattr(_own, "builders"):
        _own.builders = LocalBuilders(1, timeout)
    built: bytes = _own.builders.submit(job).result()
    return built
