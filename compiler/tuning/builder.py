"""Builds jobs in processes of their own, which a compiler's crash or a time limit may end."""

from __future__ import annotations

from concurrent.futures import Future

from pocketformer.compiler.tuning.job import Job


class LocalBuilders:
    """`workers` processes that build jobs; one that takes over `timeout` seconds is killed.

    A future raises BuildFailed, which names the job's points, where the job cannot be built.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self._workers, self._timeout = workers, timeout

    def submit(self, job: Job) -> Future[bytes]:
        """The bundle of `job` as `build` makes it, once it is done."""
        raise AssertionError("part E is writing this")

    def close(self) -> None:
        """End all processes; jobs under way are cancelled."""
