"""The devices that measure: all behind one key at once, each request by one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.connection import connect
from pocketformer.compiler.device.handshake import ask
from pocketformer.compiler.device.loopback import Loopback
from pocketformer.compiler.device.token import find_token
from pocketformer.compiler.device.tracker_client import Tracker
from pocketformer.compiler.errors import PocketformerError
from pocketformer.compiler.machine import memory_bytes
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.tuning.device_slot import LOSSES, Rack, Slot
from pocketformer.compiler.tuning.measure import Measured, Timing
from pocketformer.compiler.tuning.request import Request

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.job import Job

HOST = "host"
THIS_MACHINE = "this machine"
LOOK = 3.0          # seconds between two questions whether a tracker has more devices
ENDING = 5.0        # seconds that slots have to notice that it is over


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
        """`build` is a builders' submit: a request that crashes a device is built again in parts.

        A device that does not answer a call within `timeout` seconds is given up for the moment.
        Raises DeviceLost and DeviceRefused where there is no device to begin with.
        """
        self._build = build
        self._open: set[Future[Measured]] = set()
        self._lock = threading.Lock()
        self._host = Loopback(progress) if address == HOST else None
        self._address = self._host.address if self._host else Address.parse(address)
        self._rack = Rack(
            where=self._host.revive if self._host else lambda: self._address,
            lost=self._host.stop if self._host else lambda: None,
            divide=self._divide,
            is_host=self._host is not None,
            token=self._host.token if self._host else find_token(token),
            timeout=timeout,
            threads=threads,
        )
        self._slots = self._rack.slots
        try:
            self._begin(timeout, progress or silent)
        except BaseException:
            self.close()
            raise

    def _begin(self, timeout: float, progress: Progress) -> None:
        with connect(self._address, self._rack.token, timeout, progress) as first:
            self._local = first.info.memory_bytes == memory_bytes()
            name = THIS_MACHINE if self._host else first.name
        if ask(self._address, self._rack.token)[0] is not None:
            self._add(name)
            return
        self._look_for_more()
        threading.Thread(target=self._keep_looking, name="tracker", daemon=True).start()

    @property
    def count(self) -> int:
        """How many devices can measure now."""
        return sum(not slot.is_gone for slot in self._slots)

    @property
    def local(self) -> bool:
        """Whether they are on this machine, where a build would slow down what is measured."""
        return self._local

    @property
    def status(self) -> list[tuple[str, str]]:
        """Each device's name and what it does: "measuring ...", "gone, waiting", "free"."""
        return [(slot.device, slot.state) for slot in self._slots]

    def submit(self, job: Job, tar: bytes, seconds: float = 1.0) -> Future[Measured]:
        """Measure the bundle in `tar`, built from `job`, for about `seconds`.

        The result has an error in the place of each point that crashes or stops a device. The
        future raises a PocketformerError where nothing could be measured: the reference itself
        fails, or no device can run such a bundle.
        """
        return self._put(Request(job, tar, seconds))

    def _put(self, request: Request) -> Future[Measured]:
        with self._lock:
            self._open.add(request.future)
        request.future.add_done_callback(self._forget)
        self._rack.requests.put(request)
        return request.future

    def _forget(self, future: Future[Measured]) -> None:
        with self._lock:
            self._open.discard(future)

    def close(self) -> None:
        """Break off what is under way; futures that have no result are cancelled."""
        self._rack.closed.set()
        self._rack.requests.close()
        with self._lock:
            waiting = list(self._open)
        for future in waiting:
            future.cancel()
        for slot in self._slots:
            slot.close()
        if self._host:
            self._host.close()
        for slot in self._slots:
            slot.join(ENDING / len(self._slots))

    def _add(self, name: str) -> None:
        slot = Slot(self._rack, name)
        slot.start()                # close() joins those that are in the list
        self._slots.append(slot)

    def _keep_looking(self) -> None:
        while not self._rack.closed.wait(LOOK):
            with suppress(PocketformerError):       # a tracker that is gone is waited for
                self._look_for_more()

    def _look_for_more(self) -> None:
        """As many slots as the tracker has ever had devices of the key."""
        tracker = Tracker(self._address, LOOK)
        try:
            there = [device for device in tracker.devices() if device.key == self._address.key]
        finally:
            tracker.close()
        for device in there[len(self._slots):]:
            self._add(f"{device.key} at {device.place}")

    def _divide(self, request: Request, error: PocketformerError) -> None:
        """Find the points that `error` is about, by measuring each of them alone."""
        if request.is_part or len(request.job.points) == 1:
            request.fail(error)
        else:
            name = f"dividing {request.name}"
            work = threading.Thread(target=self._measure_parts, args=(request,), name=name)
            work.daemon = True
            work.start()

    def _measure_parts(self, request: Request) -> None:
        alone, *pairs = request.job.split()
        try:
            first, *builds = [self._build(job) for job in (alone, *pairs)]
            wait([first, *builds])      # on this machine they would disturb what is measured
            reference = self._part(alone, first, request).result()
            parts = [
                self._part(pair, build, request) for pair, build in zip(pairs, builds, strict=True)
            ]
            others = [_beside(reference, part) for part in parts]
        except CancelledError:
            request.future.cancel()
        except Exception as error:
            request.fail(error)
        else:
            request.succeed(replace(reference, timings=(reference.timings[0], *others)))

    def _part(self, job: Job, build: Future[bytes], whole: Request) -> Future[Measured]:
        try:
            # One of them is to blame for what the whole has lost: the next loss tells which.
            part = Request(job, build.result(), whole.seconds, is_part=True, losses=LOSSES)
            return self._put(part)
        except PocketformerError as error:
            failed: Future[Measured] = Future()
            failed.set_exception(error)
            return failed


def _beside(reference: Measured, part: Future[Measured]) -> Timing | str:
    """What `part` tells of its second point, in terms of `reference`; or why it tells nothing."""
    try:
        timing, unit = part.result().timings[1], reference.timings[0]
    except PocketformerError as error:
        return str(error)
    if isinstance(timing, str) or isinstance(unit, str):
        return str(timing)
    return replace(timing, us=timing.ratio * unit.us)
