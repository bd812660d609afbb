"""Android phones on a cable or in the network, through the adb server of this machine."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketformer.compiler.errors import DeviceFailed, DeviceLost, MissingPackage, SetUpFailed

CHUNK = 64 << 10        # bytes: the most that the protocol allows in one piece
SHELL_SECONDS = 60.0    # for a command that none of ours needs more than a second for
# What to do about a phone in a state other than "device".
REMEDY = {
    "unauthorized": "unlock it and allow USB debugging for this computer",
    "authorizing": "unlock it and allow USB debugging for this computer",
    "offline": "plug it in again, or run `adb reconnect offline`",
    "no permissions": "this user may not open the USB device: add a udev rule for it, or restart "
    "the adb server as a user who may",
    "recovery": "boot it into Android",
    "sideload": "boot it into Android",
    "bootloader": "boot it into Android",
}


@dataclass(frozen=True)
class Listed:
    """A phone that the adb server knows; `state` is adb's word, "device" for one that is ready."""

    serial: str
    state: str
    model: str | None


def phones(start: bool = False) -> list[Listed]:
    """The phones of the adb server; none if no server runs, unless `start` starts one.

    Raises MissingPackage without adbutils, SetUpFailed if the server cannot be started.
    """
    with _faults("the adb server"):
        client = _client()
        if not _is_listening(client.host, client.port):
            if not start:
                return []
            _start_server(client)
        return [
            Listed(each.serial, each.state, each.tags.get("model"))
            for each in client.list(extended=True)
        ]


def connect(serial: str | None = None) -> Phone:
    """The phone called `serial`, or the only one. Starts the adb server if none runs.

    Raises SetUpFailed if there is none, or a choice, or if it lets nobody in yet.
    """
    known = phones(start=True)
    names = ", ".join(f"{each.serial} ({each.model or each.state})" for each in known)
    if not known:
        raise SetUpFailed(
            "adb sees no phone: switch on USB debugging in its developer options and plug it in,"
            " or run `adb connect HOST:PORT` for one in the network"
        )
    if serial is None and len(known) > 1:
        raise SetUpFailed(f"adb sees {len(known)} phones; pick one with --serial: {names}")
    chosen = next((each for each in known if serial in (None, each.serial)), None)
    if chosen is None:
        raise SetUpFailed(f"adb sees no phone with the serial {serial!r}; it has {names}")
    if chosen.state != "device":
        state = "no permissions" if chosen.state.startswith("no perm") else chosen.state
        remedy = REMEDY.get(state, "adb needs it in the state 'device'")
        raise SetUpFailed(f"the phone {chosen.serial} is {chosen.state!r} to adb: {remedy}")
    with _faults(f"the phone {chosen.serial}"):
        return Phone(_client().device(serial=chosen.serial))


class Phone:
    """A phone that adb lets in. Methods raise DeviceLost when it goes away."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.serial = str(device.serial)

    def property(self, name: str) -> str:
        """An Android system property, "" where it has none."""
        return self.shell(f"getprop {name}")

    def shell(self, script: str) -> str:
        """What `script` prints. Raises DeviceFailed with that if its exit code is not 0."""
        with _faults(f"the phone {self.serial}"):
            done = self._device.shell2(script, timeout=SHELL_SECONDS)
        said = str(done.output).replace("\r\n", "\n").strip()
        if done.returncode:
            raise DeviceFailed(f"a command on the phone {self.serial} failed: {said}")
        return said

    def size(self, path: str) -> int | None:
        """The bytes of a file there, None if there is none."""
        with _faults(f"the phone {self.serial}"):
            found = self._device.sync.stat(path)
        return int(found.size) if found.mode else None

    def send(
        self, data: bytes, path: str, mode: int, progress: Callable[[float], None] | None = None
    ) -> None:
        """Write `data` to the file `path` there. Raises DeviceFailed with the phone's reason."""
        # adbutils' own push hides why the phone refuses: a full disk would be just "FAIL".
        with _faults(f"the phone {self.serial}"), self._device.open_transport() as stream:
            stream.send_command("sync:")
            stream.check_okay()
            target = f"{path},{mode | 0o100000}".encode()
            stream.conn.sendall(b"SEND" + struct.pack("<I", len(target)) + target)
            for start in range(0, len(data), CHUNK):
                piece = data[start : start + CHUNK]
                stream.conn.sendall(b"DATA" + struct.pack("<I", len(piece)) + piece)
                if progress:
                    progress((start + len(piece)) / len(data))
            stream.conn.sendall(b"DONE" + struct.pack("<I", 0))
            answer = stream.read_exact(8)
            if answer[:4] != b"OKAY":
                why = stream.read_exact(struct.unpack("<I", answer[4:])[0]).decode(errors="replace")
                raise DeviceFailed(f"the phone {self.serial} cannot store {path}: {why}")

    def forward(self, port: int, remote: int) -> int:
        """Lead the port of this machine (0 = any free one) to the phone's port `remote`.

        Returns the port. Raises SetUpFailed if it is taken, also by another phone.
        """
        other = "pick another with --port, 0 for any free one"
        with _faults(f"the phone {self.serial}"):
            if not port:
                return int(self._device.forward_port(remote))
            for each in self._device.forward_list():
                if each.local == f"tcp:{port}" and each.serial != self.serial:
                    raise SetUpFailed(f"port {port} leads to the phone {each.serial}; {other}")
            try:
                self._device.forward(f"tcp:{port}", f"tcp:{remote}")
            except _errors().AdbError as error:
                raise SetUpFailed(f"port {port} cannot be forwarded, {error}; {other}") from None
        return port


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """adbutils' errors, and those of the connection, as ours."""
    errors = _errors()
    try:
        yield
    except errors.AdbTimeout:
        raise DeviceLost(f"{what} did not answer in time") from None
    except (errors.AdbError, OSError, EOFError) as error:
        raise DeviceLost(f"the connection to {what} broke off: {error or 'closed'}") from None


def _errors() -> Any:
    try:
        import adbutils.errors
    except ImportError:
        raise MissingPackage(
            "phones on adb need adbutils; install it: pip install 'pocketformer[device]'"
        ) from None
    return adbutils.errors


def _client() -> Any:
    import adbutils

    return adbutils.AdbClient(socket_timeout=SHELL_SECONDS)


def _is_listening(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def _start_server(client: Any) -> None:
    """Start it quietly: adbutils would do it with a note on stdout, amid a command's JSON."""
    from adbutils import adb_path

    where = f"{client.host}:{client.port}"
    missing = SetUpFailed(
        f"no adb server runs at {where} and there is no adb to start one: install Android's "
        "platform-tools (the package adb)"
    )
    try:
        program = Path(adb_path())
    except _errors().AdbError:
        raise missing from None
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            done = subprocess.run(
                [program, "-P", str(client.port), "start-server"],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, timeout=20,
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = -1
        except OSError:
            raise missing from None
        said.seek(0)
        lines = [line.strip() for line in said if line.strip()]
    if code:
        cause = lines[-1] if lines else "it did not answer"
        raise SetUpFailed(f"{program} cannot start the adb server at {where}: {cause}")
