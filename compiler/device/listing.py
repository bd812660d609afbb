"""Which devices there are, as they describe themselves."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pocketformer.compiler.device import handshake
from pocketformer.compiler.device.address import PORT, Address
from pocketformer.compiler.device.info import DeviceInfo
from pocketformer.compiler.device.tracker_client import Tracker
from pocketformer.compiler.errors import DeviceRefused, PocketformerError

PATIENCE = 3.0      # seconds for each device: one that is gone must not hold up the list
LOCAL = Address("127.0.0.1", PORT)


@dataclass(frozen=True)
class Found:
    """What is at an address: `info`, or the sentence that tells why there is none.

    `tracker` is the one that told of it, if any.
    """

    address: Address
    info: DeviceInfo | None
    trouble: str | None = None
    refused: bool = False
    tracker: Address | None = None

    @property
    def state(self) -> str:
        """`free` or `busy`; `refused` if it does not take the token, else `unreachable`."""
        if self.info is None:
            return "refused" if self.refused else "unreachable"
        return "busy" if self.info.busy else "free"


def find_devices(addresses: Sequence[Address], token: str) -> list[Found]:
    """The devices at `addresses`, and those that the trackers among them know.

    With no address, what listens at the usual port of this machine, if anything does.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        if not addresses:
            return _at(LOCAL, token, pool) if _is_there(LOCAL) else []
        return [each for address in addresses for each in _at(address, token, pool)]


def _is_there(address: Address) -> bool:
    try:
        with socket.create_connection((address.host, address.port), PATIENCE):
            return True
    except OSError:
        return False


def _at(address: Address, token: str, pool: ThreadPoolExecutor) -> list[Found]:
    try:
        info = handshake.ask(address, token, PATIENCE)[0]
        if info is not None:
            key = info.key or address.key
            return [Found(Address(address.host, address.port, key), info)]
        if not handshake.is_tracker(address, PATIENCE):
            return [Found(address, None, f"what listens at {address.place} is no device", True)]
        tracker = Tracker(address, PATIENCE)
        try:
            behind = tracker.devices()
        finally:
            tracker.close()
    except PocketformerError as error:
        return [Found(address, None, str(error), isinstance(error, DeviceRefused))]
    wanted = [each for each in behind if address.key in ("", each.key)]
    return list(pool.map(lambda each: _behind(each, address, token), wanted))


def _behind(device: Address, tracker: Address, token: str) -> Found:
    try:
        return Found(device, handshake.info(device, token, PATIENCE), tracker=tracker)
    except PocketformerError as error:
        return Found(device, None, str(error), isinstance(error, DeviceRefused), tracker)
