"""The device program onto an Android phone: uploaded, started, and its port led to this machine."""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketformer.compiler.device import adb
from pocketformer.compiler.device.address import PORT
from pocketformer.compiler.errors import SetUpFailed
from pocketformer.compiler.progress import Progress, silent

if TYPE_CHECKING:
    from pocketformer.runtime.build import Runtime

FOLDER = "/data/local/tmp/pocketformer"     # the one place where adb's user may execute files
PROGRAM = "pocketformer_device"
MARK = "checksum"       # written last: what it names is there in full
READY_WITHIN = 10.0     # seconds
TARGETS = {"arm64-v8a": "arm64-android", "armeabi-v7a": "armv7-android"}
# The pid may be another program's by now.
STOP = f"""
old=$(cat pid 2>/dev/null)
case "$(tr '\\0' ' ' 2>/dev/null </proc/$old/cmdline)" in *{PROGRAM}*)
  kill $old; n=0
  while kill -0 $old && [ $n -lt 20 ]; do sleep 0.1; n=$((n + 1)); done
  kill -9 $old;;
esac 2>/dev/null
rm -f pid ready log
""".strip()


@dataclass(frozen=True)
class Pushed:
    """A phone that waits for clients at `address`; `uploaded` tells whether files were sent."""

    address: str
    serial: str
    model: str
    android: str
    target: str
    uploaded: bool


def push(
    serial: str | None = None,
    port: int = PORT,
    key: str | None = None,
    token: str | None = None,
    *,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Make the phone `serial`, or the only one, ready for clients of this machine at `port`.

    Port 0 is any free one. `key` is the phone's model by default, `token` this user's own, and
    `runtime` is built for the phone's processor. Raises SetUpFailed, BuildFailed, DeviceFailed or
    DeviceLost with the step that failed.
    """
    from pocketformer import runtime as native
    from pocketformer.compiler.device.token import find_token

    report = progress or silent
    report("looking for a phone", 0.0)
    secret = find_token(token)
    phone = adb.connect(serial)
    model = phone.property("ro.product.model") or "phone"
    android = phone.property("ro.build.version.release")
    target = _target(phone, model, android)
    built = runtime or native.build(target, progress=progress)
    key = key or re.sub(r"[^a-z0-9]+", "", model.lower()) or "phone"
    uploaded = _upload(phone, built, report)
    report("starting the server", 0.9)
    remote = _start(phone, key, secret)
    local = phone.forward(port, remote)
    return Pushed(f"rpc://127.0.0.1:{local}/{key}", phone.serial, model, android, target, uploaded)


def _target(phone: adb.Phone, model: str, android: str) -> str:
    """The name of the target for its processor and Android."""
    from pocketformer.targets import DEVICES
    from pocketformer.targets.device_file import read_device

    abi = phone.property("ro.product.cpu.abi")
    if abi not in TARGETS:
        raise SetUpFailed(
            f"the phone {phone.serial} ({model}) has a processor of the kind {abi!r}; "
            f"pocketformer runs on {' and '.join(TARGETS)}"
        )
    oldest = read_device(DEVICES / f"{TARGETS[abi]}.toml").android_api
    level = phone.property("ro.build.version.sdk")
    if oldest and level.isdecimal() and int(level) < oldest:
        raise SetUpFailed(
            f"the phone {phone.serial} ({model}) runs Android {android} (API level {level}); "
            f"pocketformer needs API level {oldest}"
        )
    return TARGETS[abi]


def _upload(phone: adb.Phone, runtime: Runtime, report: Progress) -> bool:
    """Send the program and its library unless they are there already; whether they were sent."""
    files = {each.name: each.read_bytes() for each in (runtime.device, runtime.device_library)}
    checksum = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
    phone.shell(f"mkdir -p {FOLDER} && chmod 700 {FOLDER}")
    same = phone.shell(f"cat {FOLDER}/{MARK} 2>/dev/null || true") == checksum
    if same and all(phone.size(f"{FOLDER}/{name}") == len(files[name]) for name in files):
        return False
    phone.shell(f"rm -f {FOLDER}/{MARK}")
    total, sent = sum(map(len, files.values())), 0
    for name, data in files.items():
        def told(part: float, before: int = sent, size: int = len(data), what: str = name) -> None:
            report(f"uploading {what}", 0.5 + 0.4 * (before + part * size) / total)

        phone.send(data, f"{FOLDER}/{name}", 0o700, told)
        sent += len(data)
    phone.send(checksum.encode(), f"{FOLDER}/{MARK}", 0o600)
    return True


def _start(phone: adb.Phone, key: str, token: str) -> int:
    """Start the server in place of one that ran before; the phone's port that it listens at."""
    phone.shell(f"cd {FOLDER} && {STOP}")
    phone.send(token.encode(), f"{FOLDER}/token", 0o600)
    command = f"./{PROGRAM} --port 0 --key {shlex.quote(key)} --token-file token --folder files"
    # The shell hangs up on what it started when it ends: that signal is ignored.
    run = f"trap '' HUP; exec {command}"
    try:
        phone.shell(
            f"cd {FOLDER} && {{ ( {run} ) >ready 2>log </dev/null & echo $! >pid; }}"
        )
        return _wait(phone)
    finally:
        phone.shell(f"rm -f {FOLDER}/token")


def _wait(phone: adb.Phone) -> int:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        said = phone.shell(
            f"cd {FOLDER} && cat ready && {{ kill -0 $(cat pid) 2>/dev/null || echo ended; }}"
        )
        if found := re.match(r"ready \S+:(\d+) ", said):
            return int(found[1])
        if "ended" in said or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    log = phone.shell(f"cat {FOLDER}/log").splitlines()
    cause = log[-1] if log else "its log is empty"
    late = "" if "ended" in said else f" within {READY_WITHIN:.0f} s"
    raise SetUpFailed(f"the server on the phone {phone.serial} did not start{late}: {cause}")
