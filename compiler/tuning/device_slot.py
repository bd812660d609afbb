"""One of the devices behind a key: serves one request after another, whatever happens to it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.connection import Connection, connect
from pocketformer.compiler.device.info import State
from pocketformer.compiler.errors import (
    DeviceCrashed,
    DeviceFailed,
    DeviceLost,
    DeviceRefused,
    PocketformerError,
)
from pocketformer.compiler.session import Session
from pocketformer.compiler.tuning.bundle_files import unpack
from pocketformer.compiler.tuning.measure import Measured, Timing, measure
from pocketformer.compiler.tuning.request import Request, Requests
from pocketformer.compiler.tuning.status import COOLING, WAITING
from pocketformer.compiler.tuning.warmth import SHORTEST, Warmth

LOSSES = 2              # devices that a request may lose before it is the suspect itself
PATIENCE = 5.0          # seconds for a device to say anything, and for a tracker to have one
PAUSES = (0.5, 5.0)     # seconds until it looks again for a device that is gone: first, longest
FREE, GONE = "free", f"gone, {WAITING}"


@dataclass(frozen=True)
class Rack:
    """What the slots of a key share."""

    where: Callable[[], Address]        # starts this machine's program again, where that is meant
    lost: Callable[[], None]            # told when nothing answers there
    divide: Callable[[Request, PocketformerError], None]      # takes a request that breaks devices
    is_host: bool
    token: str
    timeout: float
    threads: int | None
    requests: Requests = field(default_factory=Requests)
    closed: threading.Event = field(default_factory=threading.Event)
    warmth: defaultdict[str, Warmth] = field(default_factory=lambda: defaultdict(Warmth))
    slots: list[Slot] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Slot(threading.Thread):
    """Measures with whichever device of the key it is given, one request at a time."""

    def __init__(self, rack: Rack, name: str) -> None:
        super().__init__(name=f"device-{name}", daemon=True)
        self.device, self.state, self.is_gone = name, FREE, False
        self._rack = rack
        self._connection: Connection | None = None
        self._pause = PAUSES[0]

    def run(self) -> None:
        while (request := self._rack.requests.take()) is not None:
            try:
                self._serve(request)
            except Exception as error:      # our own mistake: it must not hang who waits for this
                request.fail(error)

    def close(self) -> None:
        """Break off what is under way, once the rack is closed."""
        if connection := self._connection:
            connection.close()

    def _serve(self, request: Request) -> None:
        try:
            connection = connect(self._rack.where(), self._rack.token, PATIENCE)
        except PocketformerError as error:
            self._wait_for_one(request, error)
            return
        connection.timeout = self._rack.timeout
        if not self._rack.is_host:
            self._take_over(connection.name)
        self.is_gone, self._pause = False, PAUSES[0]
        self.state = f"measuring {request.name}"
        self._connection = connection
        if self._rack.closed.is_set():
            connection.close()      # it was not there yet when close() looked
        try:
            with connection:
                measured = self._measure(connection, request)
        except PocketformerError as error:
            self._give_back(request, error)
        else:
            request.succeed(measured)
        finally:
            self._connection, self.state = None, FREE

    def _take_over(self, device: str) -> None:
        """Be called as the device is; a slot that had it before gets the name of this one."""
        with self._rack.lock:
            for slot in self._rack.slots:
                if slot.device == device:
                    slot.device = self.device
            self.device = device

    def _wait_for_one(self, request: Request, error: PocketformerError) -> None:
        """Leave the request to other slots until there is a device again."""
        self._rack.requests.put(request, first=True)
        self.is_gone, self.state = True, f"{WAITING}: {error}"
        if isinstance(error, DeviceLost):
            self.state = GONE
            self._rack.lost()
        self._rack.closed.wait(self._pause)
        self._pause = min(2 * self._pause, PAUSES[1])

    def _give_back(self, request: Request, error: PocketformerError) -> None:
        """What becomes of a request that was broken off by `error`."""
        if self._rack.closed.is_set():
            request.future.cancel()
            return
        if isinstance(error, DeviceLost) and not isinstance(error, DeviceCrashed):
            request.losses += 1
            if request.losses <= LOSSES:
                self._rack.requests.put(request, first=True)
                return
        if isinstance(error, (DeviceLost, DeviceFailed)):
            self._rack.divide(request, error)
        else:
            request.fail(error)

    def _measure(self, connection: Connection, request: Request) -> Measured:
        with tempfile.TemporaryDirectory(prefix="pocketformer-") as folder:
            bundle = unpack(request.tar, Path(folder))
            session = Session(bundle, self._rack.threads, device=connection)
        with suppress(DeviceRefused):       # an older runtime keeps what nobody will ask for again
            for record in bundle.manifest.files.values():
                connection.call("pocketformer.device.forget", record.sha256)
        measured = measure(session, request.job, seconds=request.seconds)
        measured = self._cooled(session, request, measured)
        state = State(None, None)
        with suppress(DeviceRefused):
            state = State.from_json(connection.call("pocketformer.device.state"))
        return replace(measured, celsius=state.celsius, mhz=state.mhz)

    def _cooled(self, session: Session, request: Request, measured: Measured) -> Measured:
        """`measured`, or what is measured once the device is as fast as it was at first."""
        warmth = self._rack.warmth[self.device]
        if not (seconds := warmth.seconds_to_wait(request.name, _reference_us(measured))):
            return measured
        until, pause = time.monotonic() + seconds, 0.0      # a moment's disturbance is no heat
        while (left := until - time.monotonic()) > 0:
            if pause:
                self.state = f"{COOLING} after {request.name}"
                self._rack.closed.wait(min(pause, left))
            pause = 2 * pause or SHORTEST
            self.state = f"measuring {request.name}"
            measured = measure(session, request.job, seconds=request.seconds)
            if warmth.has_cooled(request.name, _reference_us(measured)):
                break
        warmth.waited(request.name, _reference_us(measured))
        return measured


def _reference_us(measured: Measured) -> float:
    reference = measured.timings[0]
    assert isinstance(reference, Timing), reference
    return reference.us
