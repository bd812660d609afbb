"""Racing engines: only the one whose turn it is runs."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pocketformer.compiler.arrays import write_arrays
from pocketformer.compiler.bench import Contender, Racer
from pocketformer.compiler.engines import Engine
from pocketformer.compiler.worker import WorkerFailed

INPUTS = {"x": np.arange(3.0)}


class Spinner(Engine):
    """Doubles its input; a thread of it spins for ever from its first run on."""

    spins = None

    def load(self, path, inputs, threads, sizes):
        self.path = path

    def call(self):
        if self.path == "missing":
            raise FileNotFoundError(self.path)
        if self.spins is None:
            self.spins = threading.Thread(target=self.spin, daemon=True)
            self.spins.start()
        return {"y": 2 * INPUTS["x"]}

    def spin(self):
        while True:
            pass


class Leaver(Spinner):
    """Leaves a process behind that shares its pipes, as a library's own may."""

    def load(self, path, inputs, threads, sizes):
        self.path = path
        Path(inputs).with_name("left").write_text(str(self.left()))

    def left(self):
        if (child := os.fork()) == 0:
            time.sleep(600)
        return child


@pytest.fixture
def inputs(tmp_path):
    write_arrays(tmp_path / "inputs.npz", INPUTS)
    return tmp_path / "inputs.npz"


def cpu_seconds(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def wait_for_end(process):
    place = Path(f"/proc/{process}")
    for _ in range(1200):       # a minute
        with suppress(FileNotFoundError, ProcessLookupError):
            if " Z " not in (place / "stat").read_text():
                time.sleep(0.05)
                continue
        return
    pytest.fail("the engine's process is still there")


def test_engine_whose_turn_is_over_uses_no_processor_time(inputs):
    with Racer(Contender("spinner", f"{__name__}:Spinner", inputs), inputs) as racer:
        racer.turn(3)
        before = cpu_seconds(racer._worker._process)
        time.sleep(0.3)
        assert cpu_seconds(racer._worker._process) - before < 0.1
        racer.turn(2)
        assert racer.result().calls == 5


def test_engine_that_stands_still_ends_with_who_started_it(inputs):
    code = f"""
import os, signal
from pathlib import Path
from pocketformer.compiler.bench import Contender, Racer
racer = Racer(Contender("spinner", {f"{__name__}:Spinner"!r}, Path("x")), Path({str(inputs)!r}))
print(racer._worker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    started = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    wait_for_end(int(started.stdout))


def test_what_an_engine_leaves_behind_ends_with_it(inputs):
    Racer(Contender("leaver", f"{__name__}:Leaver", Path("x")), inputs).close()
    wait_for_end(int(inputs.with_name("left").read_text()))


def test_outputs_are_kept_under_the_label(inputs, tmp_path):
    Racer(Contender("spinner", f"{__name__}:Spinner", inputs), inputs, outputs=tmp_path).close()
    with np.load(tmp_path / "spinner.npz") as found:
        np.testing.assert_array_equal(found["y"], [0.0, 2.0, 4.0])


def test_engine_that_cannot_run_its_model_says_why(inputs):
    with pytest.raises(WorkerFailed, match="missing"):
        Racer(Contender("spinner", f"{__name__}:Spinner", Path("missing")), inputs)
