"""The devices that measure: all behind one key at once, each batch until one of them has done it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from pocketformer.compiler.progress import Progress

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.kernel_bundle import Job
    from pocketformer.compiler.tuning.measure import Measured

HOST = "host"


class Devices:
    """Every device of the key that `address` names, or this machine for "host".

    A device that is lost does no harm to what others measure; what it was measuring is measured
    again, by whichever device is free first. Where all are gone it is waited for one to come back.
    """

    def __init__(
        self,
        address: str,
        build: Callable[[Job], Future[bytes]],
        token: str | None = None,
        timeout: float = 60.0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`build` is a builders' submit: a batch that crashes a device is built again in parts.

        A device that does not answer a call within `timeout` seconds is given up for the moment.
        Raises DeviceLost and DeviceRefused where there is no device to begin with.
        """
        raise NotImplementedError

    @property
    def count(self) -> int:
        """How many devices can measure now."""
        raise NotImplementedError

    @property
    def local(self) -> bool:
        """Whether they are this machine, where building at the same time would falsify times."""
        raise NotImplementedError

    @property
    def status(self) -> list[tuple[str, str]]:
        """Each device's name and what it does: "measuring ...", "cooling down", "free"."""
        raise NotImplementedError

    def submit(self, job: Job, tar: bytes) -> Future[Measured]:
        """Measure the bundle in `tar`, built from `job`.

        The result has an error in the place of each point that crashes or stops a device. The
        future raises a PocketformerError where nothing could be measured: the reference itself
        fails, or no device can run such a bundle.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Break off what is under way; futures that have no result are cancelled."""
        raise NotImplementedError
