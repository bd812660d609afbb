"""The first words with whatever listens at an address: is it a device, a tracker, something else?

Every message of TVM's RPC protocol begins with a magic number; all numbers are little-endian int32.
A device that is asked with `-info` describes itself and closes, also while it is busy.
"""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.info import DeviceInfo
from pocketformer.compiler.errors import DeviceLost, DeviceRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE, TRACKER = 0xFF271, 0x2F271
WELCOME, BUSY, MISMATCH = DEVICE, DEVICE + 1, DEVICE + 2
LONGEST = 1 << 20                   # bytes of an answer that is worth reading
PATIENCE = 10.0                     # seconds: none of these answers needs any work


def options(token: str, *more: str) -> str:
    """What follows the key in the text that a client sends first."""
    return " ".join(["", f"-token={token}", *more])


def info(address: Address, token: str, timeout: float = PATIENCE) -> DeviceInfo:
    """What the device at `address` tells of itself; its key is not compared with the address's.

    Raises DeviceRefused for a wrong token and where something else listens, also a tracker, and
    DeviceLost where nothing answers within `timeout` seconds.
    """
    found = ask(address, token, timeout)[0]
    if found is not None:
        return found
    what = "a tracker" if is_tracker(address, timeout) else "no pocketformer device"
    raise DeviceRefused(f"what listens at {address.place} is {what}")


def ask(
    address: Address, token: str, timeout: float = PATIENCE
) -> tuple[DeviceInfo | None, Address]:
    """What `info` gives, or None where something else than a device answers; and the numeric
    address at which it was found, since a name may stand for several. Raises as `info` does."""
    with _connected(address, timeout) as connection:
        host, port = connection.getpeername()[:2]
        where = Address(host, port, address.key)
        text = f"client:{address.key}{options(token, '-info')}".encode()
        try:
            connection.sendall(struct.pack("<ii", DEVICE, len(text)) + text)
            (code,) = struct.unpack("<i", _exactly(connection, 4))
            if code == MISMATCH:
                raise DeviceRefused(
                    f"the device at {address.place} refuses the token; give the one that it was "
                    "started with, by --token-file or POCKETFORMER_TOKEN"
                )
            if code != WELCOME:
                return None, where
            answer = message(connection)
        except (ConnectionError, EOFError):
            return None, where
    return DeviceInfo.from_json(answer, address.place), where


def is_tracker(address: Address, timeout: float = PATIENCE) -> bool:
    """Whether what listens at `address` answers as TVM's tracker does. Raises DeviceLost."""
    with _connected(address, timeout) as connection:
        try:
            return greets(connection)
        except (ConnectionError, EOFError):
            return False


def greets(connection: socket.socket) -> bool:
    """Whether the other end greets back as a tracker does. Raises OSError, EOFError."""
    connection.sendall(struct.pack("<i", TRACKER))
    return _exactly(connection, 4) == struct.pack("<i", TRACKER)


def message(connection: socket.socket) -> bytes:
    """The bytes that come after their length. Raises OSError, EOFError."""
    (size,) = struct.unpack("<i", _exactly(connection, 4))
    if not 0 <= size <= LONGEST:
        raise EOFError
    return _exactly(connection, size)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


@contextmanager
def _connected(address: Address, timeout: float) -> Iterator[socket.socket]:
    with (
        named_faults(address, timeout),
        socket.create_connection((address.host, address.port), timeout) as connection,
    ):
        yield connection


@contextmanager
def named_faults(address: Address, timeout: float) -> Iterator[None]:
    """Faults of a connection to `address` as DeviceLost, one sentence each."""
    try:
        yield
    except TimeoutError:
        raise DeviceLost(f"{address.place} did not answer within {timeout:g} s") from None
    except ConnectionRefusedError:
        raise DeviceLost(
            f"nothing listens at {address.place}; start pocketformer_device there first"
        ) from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "the connection was closed"
        raise DeviceLost(f"cannot reach {address.place}: {reason}") from None
