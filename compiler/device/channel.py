"""TVM's client of its RPC protocol, with what it lacks: a time limit, and a way to break it off.

It blocks without a limit and hides its socket. So the socket is looked for among the process's own
and shut down when the time is up, upon which the call that waits on it fails.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from pocketformer.compiler import vm
from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.handshake import options
from pocketformer.compiler.errors import DeviceLost, DeviceRefused

T = TypeVar("T")
OpenFile = tuple[int, int]          # its handle, and its inode, since handles are given out again
LOOK = 0.1                          # seconds between two looks for an interruption
ENDING = 2.0                        # seconds that a call may take to fail once it is cut off

_connecting = threading.Lock()      # one at a time, to know whose socket it is that appears


class TimeIsUp(Exception):
    """A call took longer than it may."""


def open_channel(address: Address, token: str, timeout: float) -> tuple[Any, socket.socket]:
    """TVM's module of the device's functions, and the socket behind it.

    `address` holds the key that the device waits for. Raises DeviceLost and DeviceRefused.
    """
    start = vm.runtime().rpc_connect
    with _connecting:
        before = _open_files()

        def cut() -> None:
            shut_down(_find_socket(address, before))

        key = address.key + options(token)
        try:
            module = within(timeout, lambda: start(address.host, address.port, key, False), cut)
        except TimeIsUp:
            raise DeviceLost(f"{address.place} did not answer within {timeout:g} s") from None
        except BaseException as error:
            cut()
            if not isinstance(error, Exception):
                raise
            text = str(error)   # not to be shown: it holds the token
        else:
            found = _find_socket(address, before)
            assert found is not None, "TVM connected, but not to where it was told to"
            return module, found
    if "already have key" in text:
        raise busy(address)
    if "cannot find server that matches" in text:
        raise DeviceRefused(
            f"the device at {address.place} waits for a client from its tracker; "
            "connect to rpc://TRACKER:PORT/KEY, or again if it was the tracker that sent you"
        )
    raise DeviceLost(f"the device at {address.place} broke off the connection at its beginning")


def busy(address: Address) -> DeviceRefused:
    """The refusal of a device that serves another client."""
    key = address.key.partition(":")[0]
    return DeviceRefused(f"{key} at {address.place} is busy with another client; try again later")


def _find_socket(address: Address, before: set[OpenFile]) -> socket.socket | None:
    """A duplicate of the socket to `address` that TVM has opened since `before`.

    It is one that child processes inherit, which those that Python opens are not.
    """
    for handle, _ in _open_files() - before:
        with suppress(OSError):         # it is no socket, not connected, or closed already
            if not os.get_inheritable(handle):
                continue
            found = socket.socket(fileno=os.dup(handle))
            with suppress(OSError):
                if found.getpeername()[:2] == (address.host, address.port):
                    os.set_inheritable(handle, False)
                    return found
            found.close()
    return None


def _open_files() -> set[OpenFile]:
    found = set()
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):         # the listing's own handle is in it, and closed again
            found.add((int(name), os.fstat(int(name)).st_ino))
    return found


def shut_down(connection: socket.socket | None) -> None:
    """Let every call that waits on it fail."""
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def hang_up(module: Any, functions: dict[str, Any], connection: socket.socket) -> None:
    """Say farewell first: to forget a function while the connection is open is a call as well."""
    module["CloseRPCConnection"]()
    functions.clear()
    connection.close()


def within(seconds: float, work: Callable[[], T], cut: Callable[[], None]) -> T:
    """What `work` returns, or raises, in a thread of its own, while this one waits for it.

    `cut` has to make it fail: that is called when it takes longer than `seconds`, upon which
    TimeIsUp is raised, and when the wait is interrupted (Ctrl-C). A wait inside TVM may miss an
    interruption that comes just before it begins; this one looks again every tenth of a second.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        done.set()

    until = time.monotonic() + seconds
    try:
        start_new_thread(run, ())   # Thread.start() waits, and must not be interrupted in that
        while not done.wait(min(LOOK, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                raise TimeIsUp
    except BaseException:
        cut()
        done.wait(ENDING)
        raise
    if errors:
        raise errors[0]
    return results[0]
