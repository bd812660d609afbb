"""What a device or the way to it may do wrong: silence, other protocols, bytes that flip."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.manifest import version_of

Serve = Callable[[socket.socket], None]

TRUTH: dict[str, Any] = {
    "key": "pf", "arch": "aarch64", "os": "linux", "isa": ["neon"], "cores": [], "busy": False,
    "memory_bytes": None, "model": None, "emulated": False, "free_bytes": None,
    "last_session": None, "runtime": {"pocketformer": "0", "tvm": version_of("apache-tvm")},
}    # fmt: skip


@contextmanager
def listener(serve: Serve) -> Iterator[Address]:
    """An address where `serve` handles each connection in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, serve), daemon=True).start()
        yield Address("127.0.0.1", listening.getsockname()[1], "pf")
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, serve: Serve) -> None:
    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    with suppress(OSError):
        while True:
            threading.Thread(target=handle, args=(listening.accept()[0],), daemon=True).start()


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def hasty(connection: socket.socket) -> None:
    """Closes at once."""


def web_server(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


def saying(**changes: Any) -> Serve:
    """A device that describes itself with `changes`."""

    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        text = json.dumps({**TRUTH, **changes}).encode()
        connection.sendall(struct.pack("<ii", 0xFF271, len(text)) + text)

    return serve


def tracking(answer: bytes) -> Serve:
    """A tracker that answers every question with `answer`."""

    def serve(connection: socket.socket) -> None:
        greeting = connection.recv(4)
        if greeting != struct.pack("<i", 0x2F271):
            return
        connection.sendall(greeting)
        while connection.recv(4096):
            connection.sendall(struct.pack("<i", len(answer)) + answer)

    return serve


def flipping(address: Address, marker: bytes) -> Serve:
    """A way to `address` on which the byte after the first `marker` changes."""

    def serve(connection: socket.socket) -> None:
        with socket.create_connection((address.host, address.port)) as onward:
            threading.Thread(target=_pass, args=(onward, connection), daemon=True).start()
            _pass(connection, onward, marker)

    return serve


def _pass(source: socket.socket, sink: socket.socket, marker: bytes | None = None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 20):
            if marker and (at := data.find(marker) + len(marker)) >= len(marker):
                data, marker = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], None
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
