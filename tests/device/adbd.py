"""The other end of adb: a phone's daemon, as much of it as pushing a program needs.

The real adb server connects to it over TCP. Its shell is this machine's, with the phone's folders
below `root` and arm64 programs in an emulator.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shlex
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

COMMANDS = (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (int.from_bytes(name, "little") for name in COMMANDS)
VERSION, LARGEST = 0x01000001, 256 << 10
TEMPORARY = "/data/local/tmp"


class Adbd:
    """A phone for `adb connect 127.0.0.1:port`.

    `emulator` is the command that runs its programs. `locked` is a phone that has not allowed this
    computer; `capacity` is how many bytes fit into a file.
    """

    def __init__(
        self,
        root: Path,
        properties: Mapping[str, str],
        emulator: list[str],
        locked: bool = False,
        capacity: int = 1 << 40,
    ) -> None:
        self.properties, self.locked, self.capacity = dict(properties), locked, capacity
        self.received: list[str] = []       # the files that were sent
        self._files = root / "tmp"
        self._files.mkdir(parents=True)
        self._tools = root / "bin"
        self._tools.mkdir()
        self._emulator = shlex.join(emulator)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.serial = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def folder(self, path: str) -> Path:
        """Where the phone's `path` lies here."""
        assert path.startswith(TEMPORARY)
        return self._files / path[len(TEMPORARY) :].lstrip("/")

    def close(self) -> None:
        self._listening.close()

    def shell(self, script: str) -> subprocess.Popen[bytes]:
        """Start `script` as the phone's shell would."""
        getprop = "".join(f"{key}) echo '{value}';; " for key, value in self.properties.items())
        tool = self._tools / "getprop"
        tool.write_text(f"#!/bin/sh\ncase $1 in {getprop} esac\n")
        tool.chmod(0o755)
        here = script.replace(TEMPORARY, str(self._files))
        here = here.replace("exec ./", f"exec {self._emulator} ./")
        return subprocess.Popen(
            ["sh", "-c", here],
            env={"PATH": f"{self._tools}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listening.accept()[0]
                threading.Thread(target=_Transport(self, connection).run, daemon=True).start()


class _Transport:
    """The connection to an adb server: messages of streams, each with an id on both ends."""

    def __init__(self, phone: Adbd, connection: socket.socket) -> None:
        self._phone, self._connection = phone, connection
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        self._ids = itertools.count(1)

    def run(self) -> None:
        with contextlib.suppress(OSError, EOFError), self._connection:
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self._exactly(24))
                self._handle(command, first, second, self._exactly(size))
        for stream in list(self._streams.values()):
            stream.end()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        check = sum(data) & 0xFFFFFFFF
        head = struct.pack("<6I", command, first, second, len(data), check, command ^ 0xFFFFFFFF)
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(head + data)

    def _handle(self, command: int, first: int, second: int, data: bytes) -> None:
        if command in (CNXN, AUTH) and self._phone.locked:
            if command == CNXN or first == 2:           # asked again until the key itself comes
                self.send(AUTH, 1, 0, os.urandom(20))
        elif command == CNXN:
            model = self._phone.properties["ro.product.model"]
            self.send(CNXN, VERSION, LARGEST, f"device::ro.product.model={model};".encode())
        elif command == OPEN:
            stream = _Stream(self, next(self._ids), first)
            self._streams[stream.here] = stream
            service = data.rstrip(b"\0").decode()
            self.send(OKAY, stream.here, stream.there)
            threading.Thread(target=_serve, args=(self._phone, service, stream)).start()
        elif stream := self._streams.get(second):
            if command == WRTE:
                stream.put(data)
                self.send(OKAY, stream.here, stream.there)
            elif command == OKAY:
                stream.taken.set()
            elif command == CLSE:
                del self._streams[second]
                stream.end()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


class _Stream:
    """One service's bytes, in both directions."""

    def __init__(self, transport: _Transport, here: int, there: int) -> None:
        self.here, self.there = here, there
        self.taken = threading.Event()
        self._transport = transport
        self._arrived: queue.Queue[bytes] = queue.Queue()
        self._rest = b""
        self.ended = False

    def put(self, data: bytes) -> None:
        self._arrived.put(data)

    def end(self) -> None:
        self.ended = True
        self._arrived.put(b"")
        self.taken.set()

    def piece(self) -> bytes:
        """What arrived next, b"" at the end."""
        data, self._rest = self._rest or self._arrived.get(), b""
        return data

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.piece()
            if not piece:
                raise EOFError
            data += piece
        data, self._rest = data[:count], data[count:]
        return data

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), LARGEST):
            self.taken.clear()
            if self.ended:
                return
            self._transport.send(WRTE, self.here, self.there, data[start : start + LARGEST])
            self.taken.wait()

    def close(self) -> None:
        self._transport.send(CLSE, self.here, self.there)


def _serve(phone: Adbd, service: str, stream: _Stream) -> None:
    kind, _, rest = service.partition(":")
    services: dict[str, Callable[[Adbd, str, _Stream], None]] = {
        "shell": _shell, "sync": _sync, "tcp": _tcp,
    }
    with contextlib.suppress(OSError, EOFError):
        services[kind](phone, rest, stream)
    stream.close()


def _shell(phone: Adbd, script: str, stream: _Stream) -> None:
    process = phone.shell(script)
    assert process.stdout is not None
    while data := os.read(process.stdout.fileno(), LARGEST):
        stream.write(data)
    process.wait()
    process.stdout.close()


def _sync(phone: Adbd, _: str, stream: _Stream) -> None:
    while True:
        kind, size = stream.exactly(4), struct.unpack("<I", stream.exactly(4))[0]
        text = stream.exactly(size).decode()
        if kind == b"STAT":
            file = phone.folder(text)
            facts = file.stat() if file.exists() else None
            told = (facts.st_mode, facts.st_size, int(facts.st_mtime)) if facts else (0, 0, 0)
            stream.write(b"STAT" + struct.pack("<3I", *told))
        elif kind == b"SEND":
            trouble = _receive(phone, text, stream)
            status = b"FAIL" if trouble else b"OKAY"
            stream.write(status + struct.pack("<I", len(trouble)) + trouble)


def _receive(phone: Adbd, target: str, stream: _Stream) -> bytes:
    """Store a file; why that was impossible, b"" if it was not."""
    path, _, mode = target.rpartition(",")
    data = b""
    while stream.exactly(4) == b"DATA":
        data += stream.exactly(struct.unpack("<I", stream.exactly(4))[0])
    stream.exactly(4)                                   # DONE's time
    if len(data) > phone.capacity:
        return b"write failed: No space left on device"
    file = phone.folder(path)
    file.unlink(missing_ok=True)
    file.write_bytes(data)
    file.chmod(int(mode) & 0o777)
    phone.received.append(path)
    return b""


def _tcp(_: Adbd, port: str, stream: _Stream) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        def back() -> None:
            with contextlib.suppress(OSError):
                while data := connection.recv(LARGEST):
                    stream.write(data)
            stream.close()

        reader = threading.Thread(target=back, daemon=True)
        reader.start()
        while data := stream.piece():
            connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)
        reader.join()
