"""Pushing to an Android phone: a real adb server, and behind it an emulated phone.

The phone runs the device program for arm64 Linux, since no Android can be emulated here.
"""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pocketformer import runtime
from pocketformer.compiler.device import adb, emulator, handshake
from pocketformer.compiler.device import push as pushing
from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.emulator import Phone
from pocketformer.compiler.device.push import FOLDER, push
from pocketformer.compiler.errors import (
    BuildFailed,
    DeviceFailed,
    DeviceLost,
    DeviceRefused,
    MissingPackage,
    SetUpFailed,
)
from pocketformer.runtime import Runtime
from tests.device.adbd import Adbd
from tests.device.phones import TOKEN
from tests.runtime.device_server import free_port

adbutils = pytest.importorskip("adbutils")

PIXEL = {
    "ro.product.model": "Pixel 8",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
}
Plug = Callable[..., Adbd]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An adb server of the tests' own, which knows no phone yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))      # for its key
        assert adb.phones(start=True) == []
        client = adbutils.AdbClient()
        yield client
        client.server_kill()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulated phone on a busy machine takes longer than one of one's own."""
    monkeypatch.setattr(pushing, "READY_WITHIN", 200.0)


@pytest.fixture
def plug(server: Any, phone: Phone, tmp_path: Path) -> Iterator[Plug]:
    """Plugs in a phone with these properties; all are unplugged in the end."""
    plugged: list[Adbd] = []

    def plug(*, locked: bool = False, capacity: int = 1 << 40, **properties: str) -> Adbd:
        wanted = {**PIXEL, **{key.replace("_", "."): value for key, value in properties.items()}}
        command = emulator.set_up().command([])
        another = Adbd(tmp_path / str(len(plugged)), wanted, command, locked, capacity)
        plugged.append(another)
        server.connect(another.serial)
        return another

    yield plug
    for each in plugged:
        pid = each.folder(f"{FOLDER}/pid")
        if pid.exists() and pid.read_text().strip():
            subprocess.run(["kill", pid.read_text().strip()], check=False)
        server.disconnect(each.serial)
        each.close()


@pytest.fixture(scope="module")
def built() -> Runtime:
    return runtime.build("arm64-linux")


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def ask(address: str, token: str = TOKEN) -> Any:
    return handshake.info(Address.parse(address), token)


# What works


def test_push_makes_a_phone_ready(plug: Plug, built: Runtime) -> None:
    pixel = plug()
    port = free_port()
    done = push(port=port, token=TOKEN, runtime=built)
    assert done.address == f"rpc://127.0.0.1:{port}/pixel8"
    assert (done.serial, done.model, done.android, done.target, done.uploaded) == (
        pixel.serial, "Pixel 8", "14", "arm64-android", True,
    )
    info = ask(done.address)
    assert (info.key, info.arch) == ("pixel8", "aarch64")
    assert {"dotprod", "neon"} <= info.isa


def test_pushed_phone_lets_nobody_in_without_the_token(plug: Plug, built: Runtime) -> None:
    plug()
    done = push(port=0, token=TOKEN, runtime=built)
    with pytest.raises(DeviceRefused, match="token"):
        ask(done.address, "another")


def test_token_is_in_no_command_and_not_left_behind(
    plug: Plug, built: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel = plug()
    scripts, modes = [], []
    shell = pixel.shell

    def watch(script: str) -> subprocess.Popen[bytes]:
        scripts.append(script)
        if (token := pixel.folder(f"{FOLDER}/token")).exists():
            modes.append(stat.S_IMODE(token.stat().st_mode))
        return shell(script)

    monkeypatch.setattr(pixel, "shell", watch)
    push(port=0, token=TOKEN, runtime=built)
    assert scripts
    assert not [script for script in scripts if TOKEN in script]
    assert set(modes) == {0o600}
    assert not pixel.folder(f"{FOLDER}/token").exists()


def test_second_push_uploads_nothing_and_starts_a_new_server(plug: Plug, built: Runtime) -> None:
    pixel = plug()
    first = push(port=0, key="first", token=TOKEN, runtime=built)
    before = pixel.folder(f"{FOLDER}/pid").read_text()
    pixel.received.clear()
    second = push(port=0, key="second", token=TOKEN, runtime=built)
    assert (first.uploaded, second.uploaded) == (True, False)
    assert pixel.received == [f"{FOLDER}/token"]
    assert ask(second.address).key == "second"
    assert before != pixel.folder(f"{FOLDER}/pid").read_text()
    assert not is_running(int(before)), "the old server was stopped"


@pytest.mark.parametrize("damage", ["checksum", "libpocketformer_runtime.so"])
def test_push_sends_again_what_is_not_whole(plug: Plug, built: Runtime, damage: str) -> None:
    pixel = plug()
    push(port=0, token=TOKEN, runtime=built)
    pixel.folder(f"{FOLDER}/{damage}").write_bytes(b"?")
    again = push(port=0, token=TOKEN, runtime=built)
    assert again.uploaded
    assert ask(again.address).arch == "aarch64"


def test_serial_picks_one_of_two_phones(plug: Plug, built: Runtime) -> None:
    plug()
    other = plug(ro_product_model="Galaxy S24")
    done = push(other.serial, 0, token=TOKEN, runtime=built)
    assert (done.serial, done.model) == (other.serial, "Galaxy S24")
    assert done.address.endswith("/galaxys24")


def test_phones_are_listed_without_starting_a_server(
    plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel = plug()
    assert adb.phones() == [adb.Listed(pixel.serial, "device", "Pixel_8")]
    port = free_port()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    assert adb.phones() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_command_line_lists_phones_with_what_to_do(plug: Plug) -> None:
    ready, locked = plug(), plug(locked=True)
    main = "from pocketformer.compiler.cli import main; main()"
    command = [sys.executable, "-c", main, "device", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    push_it = f"adb: Pixel_8 {ready.serial}: pocketformer device push --serial {ready.serial}\n"
    assert push_it in done.stdout
    assert f"adb: phone {locked.serial}: unauthorized\n" in done.stdout


# What does not


def test_no_phone_is_said_with_what_to_do(server: Any) -> None:
    with pytest.raises(SetUpFailed, match="adb sees no phone: switch on USB debugging"):
        push(token=TOKEN)


def test_several_phones_are_a_choice(plug: Plug) -> None:
    both = [plug().serial, plug().serial]
    with pytest.raises(SetUpFailed, match="adb sees 2 phones; pick one with --serial") as raised:
        push(token=TOKEN)
    assert all(serial in str(raised.value) for serial in both)


def test_unknown_serial_names_those_that_are_there(plug: Plug) -> None:
    pixel = plug()
    with pytest.raises(SetUpFailed, match=f"no phone with the serial 'x'; it has {pixel.serial}"):
        push("x", token=TOKEN)


def test_phone_that_is_not_unlocked_is_said(plug: Plug) -> None:
    plug(locked=True)
    with pytest.raises(SetUpFailed, match="'unauthorized' to adb: unlock it"):
        push(token=TOKEN)


def test_every_state_of_adb_that_is_not_ready_has_a_remedy(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in (*adb.REMEDY, "no permissions (missing udev rules?)"):
        listed = [adb.Listed("abc", state, None)]
        monkeypatch.setattr(adb, "phones", lambda start, listed=listed: listed)
        with pytest.raises(SetUpFailed, match="the phone abc is") as raised:
            adb.connect()
        assert not str(raised.value).endswith("'device'")


def test_processor_that_is_no_arm_is_refused(plug: Plug) -> None:
    plug(ro_product_cpu_abi="x86_64")
    with pytest.raises(SetUpFailed, match="kind 'x86_64'; pocketformer runs on arm64-v8a and"):
        push(token=TOKEN)


def test_android_that_is_too_old_is_refused(plug: Plug) -> None:
    plug(ro_build_version_sdk="19", ro_build_version_release="4.4")
    with pytest.raises(SetUpFailed, match=r"runs Android 4.4 \(API level 19\); pocketformer needs"):
        push(token=TOKEN)


@pytest.mark.parametrize(("abi", "target"), pushing.TARGETS.items())
def test_missing_ndk_is_said(
    plug: Plug, abi: str, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plug(ro_product_cpu_abi=abi)
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    monkeypatch.setenv("POCKETFORMER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BuildFailed, match="ANDROID_NDK_HOME"):
        push(token=TOKEN)


def test_full_disk_is_said_and_the_next_push_starts_over(plug: Plug, built: Runtime) -> None:
    pixel = plug(capacity=100_000)
    with pytest.raises(DeviceFailed, match=r"cannot store .*: write failed: No space left on"):
        push(port=0, token=TOKEN, runtime=built)
    pixel.capacity = 1 << 40
    assert push(port=0, token=TOKEN, runtime=built).uploaded


def test_server_that_does_not_start_shows_its_log(plug: Plug, built: Runtime) -> None:
    pixel = plug()
    push(port=0, token=TOKEN, runtime=built)
    size = built.device_library.stat().st_size
    pixel.folder(f"{FOLDER}/libpocketformer_runtime.so").write_bytes(b"\0" * size)
    start = time.monotonic()
    with pytest.raises(SetUpFailed, match=r"did not start: .*libpocketformer_runtime\.so"):
        push(port=0, token=TOKEN, runtime=built)
    assert time.monotonic() - start < pushing.READY_WITHIN


def test_port_that_is_taken_is_said(plug: Plug, built: Runtime) -> None:
    plug()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SetUpFailed, match=f"port {port} .*another with --port, 0 for any"):
            push(port=port, token=TOKEN, runtime=built)


def test_port_of_another_phone_is_not_taken_over(plug: Plug, built: Runtime) -> None:
    pixel, port = plug(), free_port()
    push(pixel.serial, port, token=TOKEN, runtime=built)
    with pytest.raises(SetUpFailed, match=f"port {port} leads to the phone {pixel.serial}"):
        push(plug().serial, port, token=TOKEN, runtime=built)
    assert ask(f"127.0.0.1:{port}").key == "pixel8"


def test_phone_that_is_unplugged_is_lost(plug: Plug, server: Any) -> None:
    pixel = adb.connect(plug().serial)
    server.disconnect(pixel.serial)
    with pytest.raises(DeviceLost, match=f"the phone {pixel.serial} broke off"):
        pixel.shell("true")


def test_missing_adb_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("ADBUTILS_ADB_PATH", str(tmp_path / "adb"))
    with pytest.raises(SetUpFailed, match=r"no adb to start one: install .*platform-tools"):
        adb.phones(start=True)


def test_adb_that_cannot_start_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "adb"
    program.write_text("#!/bin/sh\necho cannot open /dev/bus/usb >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("ADBUTILS_ADB_PATH", str(program))
    with pytest.raises(SetUpFailed, match=r"cannot start the adb server at .*: cannot open /dev"):
        adb.phones(start=True)


def test_missing_adbutils_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adbutils", None)
    monkeypatch.delitem(sys.modules, "adbutils.errors", raising=False)
    with pytest.raises(MissingPackage, match=r"pip install 'pocketformer\[device\]'"):
        adb.phones()
