"""Builders on the workers of a dask cluster."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from pocketformer.compiler.progress import Progress

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.kernel_bundle import Job


class ClusterBuilders:
    """Build on the workers of the dask scheduler at `address`, such as tcp://127.0.0.1:8786."""

    def __init__(
        self, address: str, timeout: float = 60.0, progress: Progress | None = None
    ) -> None:
        """Raises MissingPackage without dask, SetUpFailed where no fitting worker is found.

        A build that takes longer than `timeout` seconds is given up.
        """
        raise NotImplementedError

    @property
    def workers(self) -> int:
        """How many builds can run at once now."""
        raise NotImplementedError

    def submit(self, job: Job) -> Future[bytes]:
        """The bundle's folder as a tar; the future raises BuildFailed."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up what is not built yet and leave the cluster."""
        raise NotImplementedError
