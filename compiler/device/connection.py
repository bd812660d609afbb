"""A connection to a device: calls of its functions by name, each within a time limit."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.channel import (
    TimeIsUp,
    busy,
    hang_up,
    open_channel,
    shut_down,
    within,
)
from pocketformer.compiler.device.handshake import PATIENCE, ask, is_tracker
from pocketformer.compiler.device.info import DeviceInfo
from pocketformer.compiler.device.tracker_client import Tracker
from pocketformer.compiler.errors import (
    DeviceCrashed,
    DeviceFailed,
    DeviceLost,
    DeviceRefused,
    PocketformerError,
)
from pocketformer.compiler.manifest import version_of
from pocketformer.compiler.progress import Progress, silent

FREED = 2.0             # seconds that a device may take to clean up after its last client
_FROM_DEVICE = "Error caught from RPC call:\n"      # TVM's words before a device's own sentence


class Connection:
    """An open session of the device that `info` describes; other clients are refused meanwhile.

    Threads may share it: their calls wait for one another. It ends with `close()`, with the `with`
    block that it is given to, and with its last reference.
    """

    def __init__(
        self, info: DeviceInfo, address: Address, token: str, timeout: float = 60.0
    ) -> None:
        """Take up the session; `address` holds the key that the device waits for."""
        self.info, self.address, self.timeout = info, address, timeout
        self.name = f"{info.key} at {address.place}"
        self._token = token
        self._module, self._socket = open_channel(address, token, min(timeout, PATIENCE))
        self._functions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closing = False
        self._hang_up = weakref.finalize(
            self, hang_up, self._module, self._functions, self._socket
        )

    def call(self, name: str, *arguments: Any) -> Any:
        """What the device's function `name` returns for numbers, text and bytes.

        Raises DeviceFailed with the device's own sentence where the function fails, DeviceRefused
        where there is none of this name, and DeviceLost, after which the connection is closed, if
        there is no answer within `timeout` seconds or the connection breaks off (DeviceCrashed
        where the call was the reason). An interruption (Ctrl-C) closes the connection as well.
        """
        with self._lock:
            if self._closing or not self._hang_up.alive:
                raise DeviceLost(f"the connection to {self.name} is closed")
            expired = False
            try:
                return within(
                    self.timeout,
                    lambda: self._function(name)(*arguments),
                    lambda: shut_down(self._socket),
                )
            except PocketformerError:
                raise
            except TimeIsUp:
                expired = True
            except Exception as error:
                text = str(error)
                if _FROM_DEVICE in text:
                    raise DeviceFailed(_sentence(text)) from None
            except BaseException:
                self._break_off()
                raise
            self._break_off()
            if self._closing:
                raise DeviceLost(f"the connection to {self.name} was closed in `{_short(name)}`")
            if expired:
                raise DeviceLost(
                    f"{self.name} did not answer within {self.timeout:g} s in `{_short(name)}`; "
                    "the connection is closed"
                )
            raise _why_it_ended(self.address, self._token, self.name, _short(name))

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            try:
                self._functions[name] = self._module[name]
            except AttributeError:
                raise DeviceRefused(
                    f"{self.name} has no function {name!r}; give it this version's runtime"
                ) from None
        return self._functions[name]

    def _break_off(self) -> None:
        """End it in the middle of a message, when a farewell would not be understood."""
        shut_down(self._socket)
        self._hang_up()

    def close(self) -> None:
        """End the session and free the device; a call in another thread raises DeviceLost."""
        self._closing = True
        if not self._lock.acquire(blocking=False):
            shut_down(self._socket)
            self._lock.acquire()
        try:
            self._hang_up()
        finally:
            self._lock.release()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    address: Address, token: str, timeout: float = 60.0, progress: Progress | None = None
) -> Connection:
    """A session with the device at `address`, or with one that the tracker there hands out.

    Waits up to two seconds for a device that is just being freed, and `timeout` seconds for a
    tracker's. Raises DeviceLost and DeviceRefused that say what is in the way.
    """
    patience = min(timeout, PATIENCE)
    found, where = ask(address, token, patience)
    if found is None:
        where = _ask_tracker(address, timeout, progress or silent)
        found, where = ask(where, token, patience)
        if found is None:
            raise DeviceRefused(f"what listens at {where.place} is no pocketformer device")
    elif address.key not in ("", found.key):
        raise DeviceRefused(
            f"the device at {address.place} is called {found.key!r}, not {address.key!r}"
        )
    else:
        where = Address(where.host, where.port, found.key)
    if found.tvm != (here := version_of("apache-tvm")):
        raise DeviceRefused(
            f"{found.key} at {where.place} runs TVM {found.tvm}, installed here is {here}; "
            "give it this version's runtime"
        )
    until = time.monotonic() + FREED
    while found.busy and time.monotonic() < until:
        time.sleep(0.05)
        found = ask(where, token, patience)[0] or found
    if found.busy:
        raise busy(where)
    return Connection(found, where, token, timeout)


def _ask_tracker(address: Address, timeout: float, progress: Progress) -> Address:
    if not is_tracker(address, min(timeout, PATIENCE)):
        raise DeviceRefused(f"what listens at {address.place} is no pocketformer device")
    tracker = Tracker(address)
    try:
        return tracker.request(address.key, timeout, progress)
    finally:
        tracker.close()


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _sentence(text: str) -> str:
    """The device's own words in TVM's error."""
    lines = text.partition(_FROM_DEVICE)[2].strip().splitlines() or ["the device gave no reason"]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _why_it_ended(address: Address, token: str, name: str, call: str) -> DeviceLost:
    """Why the device dropped a session in the middle of `call`, as it tells now."""
    until = time.monotonic() + FREED
    found: DeviceInfo | None = None
    while time.monotonic() < until:
        try:
            found = ask(address, token, FREED)[0]
        except PocketformerError:
            return DeviceLost(
                f"{name} is gone: its connection broke off in `{call}` and it answers no more"
            )
        if found is None or not found.busy:
            break
        time.sleep(0.05)
    how = found.last_session.how if found and found.last_session else ""
    kind, _, number = how.partition(" ")
    if how == "timed out":
        return DeviceLost(f"{name} ended the session in `{call}`: its time was up")
    if kind == "signal" and number == "9":
        return DeviceLost(
            f"the process on {name} was killed in `{call}`, perhaps for want of memory"
        )
    if kind == "signal":
        return DeviceCrashed(
            f"the process on {name} ended with {how} in `{call}`; a kernel crashed"
        )
    if kind == "exit":
        return DeviceCrashed(f"the process on {name} ended with {how} in `{call}`")
    return DeviceLost(f"{name} broke off the connection in `{call}`")
