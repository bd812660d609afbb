"""pocketformer_device: how warm it is and how fast its cores run."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pocketformer import runtime
from pocketformer.compiler.machine import this_machine
from pocketformer.runtime import sources, toolchain
from pocketformer.runtime.objects import Object
from tests.runtime.device_server import Server

CPU = min(os.sched_getaffinity(0))
CLOCK = f"devices/system/cpu/cpu{CPU}/cpufreq/scaling_cur_freq"
OTHERS_CLOCK = "devices/system/cpu/cpu4000/cpufreq/scaling_cur_freq"    # not one of ours
SOURCES = sources.HERE / "src"
NEEDS = ("state", "cpu", "cores", "files", "text")


def zone(number: int, kind: str, temperature: str) -> dict[str, str]:
    folder = f"class/thermal/thermal_zone{number}"
    return {f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{temperature}\n"}


@pytest.fixture(scope="module")
def state_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Any]:
    """What the device's own code reads from a folder that looks as /sys does."""
    runtime.build("host")       # whose object files these are
    tools = toolchain.find(this_machine().arch, "linux", None)
    objects = [
        str(Object.of(source, tools).path)
        for source in [*sources.library_sources(), *sources.device_sources()]
        if source.path.is_relative_to(SOURCES) and source.path.stem in NEEDS
    ]
    assert len(objects) == len(NEEDS)
    library = tmp_path_factory.mktemp("state") / "state.so"
    subprocess.run(
        [*tools.cxx, "-std=c++20", "-shared", "-fPIC", f"-I{SOURCES}", *objects,
         str(Path(__file__).with_name("state_of.cc")), "-o", str(library)],
        env={**os.environ, **tools.environment}, check=True,
    )
    call = ctypes.CDLL(str(library)).state_of

    def ask(root: Path) -> Any:
        told: list[bytes] = []
        call(str(root).encode(), ctypes.CFUNCTYPE(None, ctypes.c_char_p)(told.append))
        return json.loads(told[0])

    return ask


@pytest.mark.parametrize(("files", "celsius", "mhz"), [
    ({}, None, None),
    ({CLOCK: "1804800\n"}, None, 1804.8),
    ({CLOCK: "1804800\n", OTHERS_CLOCK: "3000000\n"}, None, 1804.8),
    ({CLOCK: "<unknown>\n"}, None, None),
    (zone(0, "cpu-0-0-usr", "41200"), 41.2, None),
    (zone(0, "gpu", "99000") | zone(1, "BIG", "61000") | zone(2, "LITTLE", "48000"), 61.0, None),
    (zone(0, "battery", "39000"), None, None),
    (zone(0, "x86_pkg_temp", "52000") | {CLOCK: "800000\n"}, 52.0, 800.0),
    (zone(0, "cpu-thermal", "2147483647") | zone(1, "soc_thermal", "50500"), 50.5, None),
    (zone(0, "cpu-thermal", "-273000"), None, None),
    (zone(0, "cpu-thermal", ""), None, None),
], ids=["nothing", "clock", "others", "words", "warm", "hottest", "battery", "both", "absurd",
        "cold", "empty"])  # fmt: skip
def test_temperature_and_clock_are_read_where_the_system_tells(
    state_of: Callable[[Path], Any], tmp_path: Path, files: Mapping[str, str],
    celsius: float | None, mhz: float | None,
) -> None:
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert state_of(tmp_path) == {"celsius": celsius, "mhz": mhz}


def test_a_client_can_ask_for_it() -> None:
    with Server() as server:
        told = json.loads(server.connect().get_function("pocketformer.device.state")())
    assert set(told) == {"celsius", "mhz"}
