"""What a compilation leaves behind that is told to end."""

import os
import signal
import subprocess
import time

import onnx
import pytest
import typer

from pocketformer.compiler.arrays import write_arrays
from pocketformer.compiler.cli.common import guarded
from tests.compiler.test_cli import COMMAND
from tests.encoder import encoder, inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model, data for it, and a place for temporary files."""
    folder = tmp_path_factory.mktemp("killed")
    onnx.save(encoder(), folder / "encoder.onnx")
    write_arrays(folder / "data.npz", inputs(1, 5))
    (folder / "temporary").mkdir()
    return folder


def killed(folder):
    """A compilation that gets SIGTERM once its data for evaluation lies in a file; its stderr."""
    command = [*COMMAND, "compile", "encoder.onnx", "-r", "int8-dynamic", "--evaluate", "data.npz"]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "TMPDIR": str(folder / "temporary")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    while not any((folder / "temporary").glob("*/*.npz")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    return process, process.communicate(timeout=300)[1]


def test_a_killed_evaluation_leaves_neither_data_nor_a_bundle(folder):
    before = sorted(folder.iterdir())
    for _ in range(5):
        process, stderr = killed(folder)
        if "Exception ignored" not in stderr:       # as Python does within callbacks of its own
            break
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert sorted(folder.iterdir()) == before
    assert list((folder / "temporary").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_in_the_midst_of_other_work_is_an_interruption(number):
    @guarded
    def command():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise RuntimeError from None    # as TVM does within its callbacks

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 130


def test_a_signal_that_is_ignored_from_the_start_stays_so():
    done = []

    @guarded
    def command():
        os.kill(os.getpid(), signal.SIGHUP)
        done.append(signal.getsignal(signal.SIGHUP))

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        command()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done == [signal.SIG_IGN]
