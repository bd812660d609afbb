"""What a client asks TVM's tracker, which knows devices by their keys and hands out the free ones.

After the greeting, both sides send JSON with its length before it.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.handshake import PATIENCE, greets, message, named_faults
from pocketformer.compiler.errors import DeviceRefused
from pocketformer.compiler.progress import Progress

REQUEST, SUMMARY = 4, 6


class Tracker:
    """A connection to the tracker at `address`. Raises DeviceLost and DeviceRefused."""

    def __init__(self, address: Address, timeout: float = PATIENCE) -> None:
        self.address = address
        with named_faults(address, timeout):
            self._socket = socket.create_connection((address.host, address.port), timeout)
            if not greets(self._socket):
                raise DeviceRefused(f"what listens at {address.place} is no tracker")

    def devices(self) -> list[Address]:
        """Where the devices are that have registered, with their keys."""
        with self._understood(PATIENCE):
            return [
                Address(str(each["addr"][0]), int(each["addr"][1]), each["key"].partition(":")[2])
                for each in self._ask([SUMMARY])[1]["server_info"]
            ]

    def request(self, key: str, timeout: float, progress: Progress) -> Address:
        """The next free device of `key`, whose own key is then the word that it waits for.

        Raises DeviceRefused for an unknown key and if none became free within `timeout` seconds.
        """
        count = self._count(key)
        progress(f"waiting for a free {key}", 0.0)
        self._socket.settimeout(timeout)
        with self._understood(timeout):
            try:
                code, (host, port, matchkey) = self._ask([REQUEST, key, "", 1])
            except TimeoutError:
                every = "the only device" if count == 1 else f"all {count} devices"
                raise DeviceRefused(
                    f"{every} called {key!r} at the tracker {self.address.place} "
                    f"stayed busy for {timeout:g} s"
                ) from None
            if code:
                raise DeviceRefused(
                    f"the tracker {self.address.place} refuses to give out {key!r}"
                )
            return Address(str(host), int(port), str(matchkey))

    def _count(self, key: str) -> int:
        """How many devices are called `key`; one that has just been restarted knows none yet."""
        for wait in (0.5,) * 6:
            keys = [device.key for device in self.devices()]
            if keys:
                break
            time.sleep(wait)
        if not key:
            raise DeviceRefused(
                f"{self.address} is a tracker; say which of its devices, such as "
                f"{self.address}/{keys[0] if keys else 'KEY'}"
            )
        if key not in keys:
            has = ", ".join(sorted(set(keys))) or "no devices at all"
            raise DeviceRefused(
                f"the tracker {self.address.place} knows no device {key!r}; it has {has}"
            )
        return keys.count(key)

    @contextmanager
    def _understood(self, timeout: float) -> Iterator[None]:
        """Faults of the connection, and answers that are none of a tracker's, as one sentence."""
        with named_faults(self.address, timeout):
            try:
                yield
            except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
                    RecursionError):
                raise DeviceRefused(
                    f"what listens at {self.address.place} does not answer as TVM's tracker does"
                ) from None

    def _ask(self, value: Any) -> Any:
        text = json.dumps(value).encode()
        self._socket.sendall(struct.pack("<i", len(text)) + text)
        return json.loads(message(self._socket))

    def close(self) -> None:
        self._socket.close()
