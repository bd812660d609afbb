"""TVM's client of its RPC protocol, with what it lacks: a time limit, and a way to break it off.

It blocks without a limit and hides its socket. So the socket is looked for among the process's own
and shut down when the time is up, upon which the call that waits on it fails.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pocketformer.compiler import vm
from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.handshake import options
from pocketformer.compiler.errors import DeviceLost, DeviceRefused

OpenFile = tuple[int, int]          # its handle, and its inode, since handles are given out again

_connecting = threading.Lock()      # one at a time, to know whose socket it is that appears


def open_channel(address: Address, token: str, timeout: float) -> tuple[Any, socket.socket]:
    """TVM's module of the device's functions, and the socket behind it.

    `address` holds the key that the device waits for. Raises DeviceLost and DeviceRefused.
    """
    start = vm.runtime().rpc_connect
    with _connecting:
        before = _open_files()
        with limit(timeout, lambda: shut_down(_find_socket(address, before))) as expired:
            try:
                module = start(address.host, address.port, address.key + options(token), False)
            except BaseException as error:
                shut_down(_find_socket(address, before))
                if not isinstance(error, Exception):
                    raise
                fault = error
            else:
                found = _find_socket(address, before)
                assert found is not None, "TVM connected, but not to where it was told to"
                return module, found
    text = str(fault)           # not to be shown: it holds the token
    if expired.is_set():
        raise DeviceLost(f"{address.place} did not answer within {timeout:g} s") from None
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


@contextmanager
def limit(seconds: float, cut: Callable[[], None]) -> Iterator[threading.Event]:
    """Call `cut` if the body takes longer than `seconds`; the event tells whether it did."""
    expired = threading.Event()

    def run_out() -> None:
        expired.set()
        cut()

    timer = threading.Timer(seconds, run_out)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
