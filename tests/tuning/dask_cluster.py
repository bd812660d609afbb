"""A dask cluster of two workers on this machine, in a process of its own that can be killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from distributed import LocalCluster
cluster = LocalCluster(
    n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=None,
    local_directory=sys.argv[1], silence_logs=50,
)
print(cluster.scheduler_address, flush=True)
sys.stdin.read()
cluster.close()
"""


class Cluster:
    """Runs until `kill`, or the end of the `with` block; `address` is its scheduler's."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def kill(self) -> None:
        """End the scheduler at once, and with it the workers."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.communicate()
