"""Session on a device, which is the device program of this machine's own runtime."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.cli import app
from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.connection import Connection, connect
from pocketformer.compiler.device.handshake import info
from pocketformer.compiler.device.tracker_client import Tracker
from pocketformer.compiler.errors import (
    BadBundle,
    BadInput,
    DeviceFailed,
    DeviceLost,
    DeviceRefused,
    PocketformerError,
)
from pocketformer.compiler.session import Session
from tests.compiler.kinds import of_kinds, save_kinds
from tests.compiler.tiny import Tiny, build, inputs, one_sentence, tiny_manifest, tiny_weights
from tests.device import liars
from tests.device.program import TOKEN, Program, TrackerProgram

MANY = 1_000_000        # runs that take many seconds, and as many as a device does in one call


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The tiny model's bundle, saved."""
    folder = tmp_path_factory.mktemp("tiny")
    made = Bundle.create(build(Tiny, folder / "tiny.so"), tiny_weights(), tiny_manifest())
    made.save(folder / "tiny.pf")
    return folder / "tiny.pf"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A device that the tests share; a client of each may meet it while it is just being freed."""
    with Program(tmp_path_factory.mktemp("device")) as started:
        yield started


@pytest.fixture
def fresh(tmp_path):
    """A device of a test's own, which no bundle was uploaded to."""
    with Program(tmp_path / "device") as started:
        yield started


def remote(bundle, program, **options):
    return Session(bundle, device=str(program.address), **{"token": TOKEN, **options})


def refusal(kind, bundle, address, **options):
    """The sentence with which a session at `address` is refused."""
    with pytest.raises(kind) as error:
        Session(bundle, device=str(address), **{"token": TOKEN, **options})
    text = one_sentence(error)
    assert TOKEN not in text
    return text


def until_busy(child, before):
    """Wait until `child` has worked so much longer than `before` that its run has begun."""
    until = time.monotonic() + 60
    while child.cpu_times().user < before + 0.1:
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def busy_run(session, program):
    """Runs `session` for many seconds in a thread; yields what its error will be added to."""
    errors, child = [], program.child
    before = child.cpu_times().user

    def work():
        try:
            session.time(inputs(8, 4000), warmup=MANY, runs=1)
        except PocketformerError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    until_busy(child, before)
    yield errors
    thread.join(60)
    assert not thread.is_alive()


# Running


def test_the_device_gives_the_bits_that_this_machine_gives(path, program):
    here = Session(path)
    with remote(path, program) as session:
        for batch, seq in ((1, 3), (2, 4), (3, 700), (1, 3)):
            given = inputs(batch, seq)
            expected, found = here.run(given), session.run(given)
            assert list(found) == list(expected)
            for name, array in expected.items():
                assert found[name].dtype == array.dtype
                np.testing.assert_array_equal(found[name], array)
                assert found[name].flags.writeable
        assert session.run(given, outputs=["same"]).keys() == {"same"}
        mine = {"hidden": np.empty((1, 3, 16), np.float32)}
        assert session.run(given, outputs=mine)["hidden"] is mine["hidden"]
        np.testing.assert_array_equal(mine["hidden"], expected["hidden"])


def test_every_kind_of_number_goes_there_and_back(tmp_path, program):
    saved = save_kinds(tmp_path)
    expected = Session(saved).run(of_kinds())
    with remote(saved, program) as session:
        found = session.run(of_kinds())
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].astype(float), array.astype(float))


def test_what_a_device_has_is_not_sent_again(path, fresh):
    def open_session():
        steps = []
        remote(path, fresh, progress=lambda step, fraction: steps.append((step, fraction))).close()
        return steps

    first = open_session()
    assert {step for step, _ in first} == {
        "uploading model.so to pf", "uploading weights.safetensors to pf"
    }    # fmt: skip
    fractions = [fraction for _, fraction in first]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)
    records = Bundle.load(path).manifest.files.values()
    assert fresh.stored == {record.sha256 for record in records}
    assert open_session() == []


def test_a_bundle_that_was_never_saved_runs(path, program, tmp_path):
    library = Bundle.load(path).library
    made = Bundle.create(library, tiny_weights(), tiny_manifest())
    with remote(made, program) as session:
        found = session.run(inputs())
    np.testing.assert_array_equal(found["hidden"], Session(path).run(inputs())["hidden"])


def test_a_file_that_was_changed_is_not_taken_for_a_fault_of_the_way(path, fresh, tmp_path):
    loaded = Bundle.load(path)
    loaded.save(tmp_path / "copy.pf")
    copy = Bundle.load(tmp_path / "copy.pf")
    weights = tmp_path / "copy.pf" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BadBundle, match=r"weights\.safetensors was changed after"):
        remote(copy, fresh)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"x": np.zeros((1, 3, 8), np.float32)},
        {"x": np.zeros((1, 3, 8), np.float64), "shift": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((1, 3, 8), np.float32), "shift": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 5000, 8), np.float32), "shift": np.zeros((1, 5000), np.float32)},
    ],
    ids=["none", "missing", "dtype", "sizes", "limit"],
)
def test_a_wrong_input_is_refused_as_on_this_machine_and_never_sent(given, path, program):
    with pytest.raises(BadInput) as here:
        Session(path).run(given)
    with remote(path, program, timeout=30) as session:
        program.child.suspend()     # so that whatever is sent to it is not answered
        for call in (session.run, session.time, session.profile):
            with pytest.raises(BadInput) as there:
                call(given)
            assert str(there.value) == str(here.value)
        program.child.resume()
        session.run(inputs())


def test_times_are_the_devices_own(path, program):
    with remote(path, program) as session:
        assert session.last_ms is None
        start = time.perf_counter()
        session.run(inputs())
        assert 0 < session.last_ms < (time.perf_counter() - start) * 1e3
        start = time.perf_counter()
        times = session.time(inputs(8, 4000), warmup=2, runs=7)
        assert len(times) == 7
        assert 0 < sum(times) < (time.perf_counter() - start) * 1e3
        with pytest.raises(BadInput, match="at least 0 and 1"):
            session.time(inputs(), runs=0)


def test_a_profile_has_the_kernels_in_order(path, program):
    with remote(path, program) as session:
        runs = session.profile(inputs(), 2)
    here = Session(path).profile(inputs(), 1)[0]
    wanted = [call.name for call in here if not call.name.startswith("vm.")]
    for run in runs:
        assert [call.name for call in run if not call.name.startswith("vm.")] == wanted
        assert all(call.start_ns <= call.end_ns for call in run)
    assert runs[0][-1].end_ns <= runs[1][0].start_ns


def test_a_profile_without_inputs_takes_those_that_the_device_has(path, program, monkeypatch):
    with remote(path, program) as session:
        with pytest.raises(BadInput, match="no profile before"):
            session.profile(None, 1)
        session.profile(inputs(2, 5), 1)
        sent, send = [], Connection.call

        def noting(self, name, *arguments):
            sent.append(name)
            return send(self, name, *arguments)

        monkeypatch.setattr(Connection, "call", noting)
        (run,) = session.profile(None, 1)
        assert sent == ["pocketformer.session.profile"]
        session.run(inputs(1, 9))
        assert [call.name for call in session.profile(None, 1)[0]] == [call.name for call in run]
        assert sent.count("pocketformer.session.set") == 2 * len(inputs())


def test_threads_that_share_a_session_wait_for_one_another(path, program):
    here, right = Session(path), []
    with remote(path, program) as session:

        def work(seq):
            for _ in range(5):
                found = session.run(inputs(1, seq))["hidden"]
                right.append(np.array_equal(found, here.run(inputs(1, seq))["hidden"]))

        threads = [threading.Thread(target=work, args=(seq,)) for seq in (3, 4, 50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 15


def test_no_import_of_tvm_is_needed(path, program):
    code = """
import sys
from pocketformer.compiler.session import Session
with Session(sys.argv[1], device=sys.argv[2], token=sys.argv[3]) as session:
    print(session.device.key, "tvm" in sys.modules, "torch" in sys.modules)
"""
    argv = [sys.executable, "-c", code, str(path), str(program.address), TOKEN]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pf", "False", "False"]


# Who is let in, and for how long


def test_a_device_describes_itself(program):
    found = info(program.address, TOKEN)
    assert (found.key, found.busy, found.emulated) == ("pf", False, False)
    assert sum(core.count for core in found.cores) == os.cpu_count()
    assert found.free_bytes > 0
    assert found.name.startswith("pf (")


@pytest.mark.parametrize("token", ["wrong-token", "right-toke", "right-token2"])
def test_a_wrong_token_gets_nothing(token, path, fresh):
    text = refusal(DeviceRefused, path, fresh.address, token=token)
    assert "refuses the token" in text
    assert token not in text
    assert fresh.stored == set()


def test_the_environments_token_is_taken(path, program, monkeypatch):
    monkeypatch.setenv("POCKETFORMER_TOKEN", TOKEN)
    Session(path, device=str(program.address)).close()


def test_without_a_key_the_device_is_taken_and_with_another_it_is_refused(path, program):
    place = program.address.place
    Session(path, device=place, token=TOKEN).close()
    assert f"{place} is called 'pf', not 'px'" in refusal(DeviceRefused, path, f"{place}/px")


def test_a_second_client_is_refused_until_the_first_one_is_gone(path, program):
    first = remote(path, program)
    text = refusal(DeviceRefused, path, program.address)
    assert text == f"pf at {program.address.place} is busy with another client; try again later"
    first.run(inputs())
    first.close()
    remote(path, program).close()
    with pytest.raises(BadInput, match="the session is closed"):
        first.run(inputs())


def test_a_client_waits_for_a_device_that_is_just_being_freed(path, program):
    first = remote(path, program)
    threading.Timer(0.5, first.close).start()
    remote(path, program).close()


def test_the_last_reference_frees_the_device(path, program):
    session = remote(path, program)
    session.run(inputs())
    del session
    gc.collect()
    remote(path, program).close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"isa": ("neon", "i8mm")}, "lacks neon, i8mm"),
        ({"arch": "aarch64", "os": "android"}, "was compiled for aarch64 android"),
    ],
    ids=["isa", "system"],
)
def test_a_device_that_cannot_run_the_bundle_gets_nothing_of_it(changes, words, path, fresh):
    loaded = Bundle.load(path)
    target = replace(loaded.manifest.target, **changes)
    other = replace(loaded, manifest=replace(loaded.manifest, target=target))
    text = refusal(DeviceRefused, other, fresh.address)
    assert words in text
    assert "pf (" in text
    assert fresh.stored == set()
    remote(path, fresh).close()


def test_a_bundle_of_another_tvm_is_refused(path, program):
    loaded = Bundle.load(path)
    old = replace(loaded, manifest=replace(loaded.manifest, tvm_version="0.26.0"))
    assert "compiled with TVM 0.26.0, pf (" in refusal(DeviceRefused, old, program.address)


def test_a_runtime_that_tells_less_is_refused(path, program, monkeypatch):
    call = Connection.call

    def older(self, name, *arguments):
        told = call(self, name, *arguments)
        return told.replace("level", "rank") if name.endswith("describe") else told

    monkeypatch.setattr(Connection, "call", older)
    text = refusal(DeviceRefused, path, program.address)
    assert text.endswith("does not tell the level of a session; give it this version's runtime")


# What is no device


def test_where_nothing_listens(path):
    text = refusal(DeviceLost, path, "127.0.0.1:1")
    assert text == "nothing listens at 127.0.0.1:1; start pocketformer_device there first"
    assert "cannot reach no.such.invalid:9190" in refusal(DeviceLost, path, "no.such.invalid:9190")


def test_what_never_answers(path):
    with liars.listener(liars.silent) as address:
        text = refusal(DeviceLost, path, address, timeout=0.3)
    assert text == f"{address.place} did not answer within 0.3 s"


@pytest.mark.parametrize("serve", [liars.hasty, liars.web_server], ids=lambda each: each.__name__)
def test_what_is_no_device(serve, path):
    with liars.listener(serve) as address:
        text = refusal(DeviceRefused, path, address)
    assert text == f"what listens at {address.place} is no pocketformer device"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runtime": {"pocketformer": "0", "tvm": "0.26.0"}}, "runs TVM 0.26.0, installed here is"),
        ({"runtime": None}, "does not describe itself"),
        ({"cores": 7}, "does not describe itself"),
        ({"memory_bytes": float("inf")}, "does not describe itself"),
        ({"busy": True}, "is busy with another client"),
    ],
    ids=["tvm", "lacks", "type", "endless", "busy"],
)
def test_a_device_that_says_strange_things(changes, words, path):
    with liars.listener(liars.saying(**changes)) as address:
        assert words in refusal(DeviceRefused, path, address)


def test_a_device_that_lets_nobody_in_after_its_description(path):
    with liars.listener(liars.saying()) as address, pytest.raises(DeviceLost) as error:
        connect(address, TOKEN, timeout=1)
    assert TOKEN not in one_sentence(error)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300, None, "60"])
def test_a_time_limit_is_above_zero_and_below_a_day(timeout, path, program):
    with pytest.raises(BadInput, match="must be a number of seconds above 0"):
        remote(path, program, timeout=timeout)


# What breaks in the middle


def test_a_kernel_that_crashes_gives_one_sentence_and_the_device_lives_on(path, program):
    with remote(path, program) as session:
        with busy_run(session, program) as errors:
            program.child.send_signal(signal.SIGSEGV)
        assert errors == [
            f"the process on pf at {program.address.place} ended with signal 11 in `run`; "
            "a kernel crashed"
        ]
        with pytest.raises(DeviceLost, match="is closed"):
            session.run(inputs())
    remote(path, program).close()


def test_a_device_that_is_killed_is_gone(path, fresh):
    with remote(path, fresh) as session, busy_run(session, fresh) as errors:
        child = fresh.child
        fresh.process.kill()
        child.kill()
    (text,) = errors
    assert text.startswith(f"pf at {fresh.address.place} is gone")


def test_a_device_that_hangs_is_given_up_and_freed(path, program):
    with remote(path, program, timeout=2) as session:
        session.run(inputs())
        program.child.suspend()
        start = time.monotonic()
        with pytest.raises(DeviceLost) as error:
            session.run(inputs())
        assert 1.9 < time.monotonic() - start < 30
        assert one_sentence(error) == (
            f"pf at {program.address.place} did not answer within 2 s in `set`; "
            "the connection is closed"
        )
    remote(path, program).close()


def test_a_device_that_stops_altogether_is_given_up(path, fresh):
    os.kill(fresh.process.pid, signal.SIGSTOP)
    text = refusal(DeviceLost, path, fresh.address, timeout=0.5)
    assert text == f"{fresh.address.place} did not answer within 0.5 s"
    os.kill(fresh.process.pid, signal.SIGCONT)
    remote(path, fresh).close()


def test_ctrl_c_in_a_long_call_frees_the_device(path, program):
    session, child = remote(path, program), program.child
    before, given = child.cpu_times().user, inputs(8, 4000)

    def interrupt():
        until_busy(child, before)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        session.time(given, warmup=MANY)
    remote(path, program).close()


def test_closing_breaks_a_run_off(path, program):
    session = remote(path, program)
    with busy_run(session, program) as errors:
        session.close()
    assert errors == [f"the connection to pf at {program.address.place} was closed in `run`"]
    remote(path, program).close()


def test_an_upload_that_is_damaged_on_the_way_is_not_stored(path, fresh):
    weights = tiny_weights()["w"].tobytes()[:32]
    with liars.listener(liars.flipping(fresh.address, weights)) as address:
        text = refusal(DeviceFailed, path, address)
    assert "damaged in transit" in text
    record = Bundle.load(path).manifest.files["weights.safetensors"]
    assert record.sha256 not in fresh.stored
    assert not any(name.endswith(".part") for name in fresh.stored)
    remote(path, fresh).close()
    assert record.sha256 in fresh.stored


def test_sessions_leave_no_file_open(path, program):
    remote(path, program).close()
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    for _ in range(40):     # more than TVM has places for
        remote(path, program).close()
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before


# Through a tracker


@pytest.fixture(scope="module")
def tracker():
    """The place of TVM's tracker."""
    with TrackerProgram() as started:
        yield started.place


@pytest.fixture(scope="module")
def tracked(tracker, tmp_path_factory):
    with Program(tmp_path_factory.mktemp("tracked"), "phone", tracker) as started:
        asked, until = Tracker(Address.parse(tracker)), time.monotonic() + 60
        while not asked.devices():
            assert time.monotonic() < until
            time.sleep(0.01)
        asked.close()
        yield started


def test_a_tracker_leads_to_its_device(path, tracker, tracked):
    for _ in range(2):
        with Session(path, device=f"rpc://{tracker}/phone", token=TOKEN) as session:
            assert session.device.key == "phone"
            found = session.run(inputs())
        np.testing.assert_array_equal(found["hidden"], Session(path).run(inputs())["hidden"])


def test_a_tracker_lists_its_devices_to_who_asks_for_another(path, tracker, tracked):
    text = refusal(DeviceRefused, path, f"{tracker}/pixel")
    assert text == f"the tracker {tracker} knows no device 'pixel'; it has phone"
    text = refusal(DeviceRefused, path, tracker)
    assert text.endswith(f"say which of its devices, such as rpc://{tracker}/phone")


def test_a_tracker_is_no_device(tracker, tracked):
    with pytest.raises(DeviceRefused, match="is a tracker"):
        info(Address.parse(tracker), TOKEN)


@pytest.mark.parametrize("answer", [
    b"no JSON", b"[" * 100_000, b"7", b"[0, {}]", b'[0, {"server_info": [{"key": "phone"}]}]',
    b'[0, {"server_info": [{"key": "phone", "addr": ["127.0.0.1", Infinity]}]}]',
], ids=["text", "deep", "number", "lacks", "nowhere", "endless"])    # fmt: skip
def test_a_tracker_that_says_strange_things(answer, path):
    with liars.listener(liars.tracking(answer)) as address:
        text = refusal(DeviceRefused, path, address)
    assert text == f"what listens at {address.place} does not answer as TVM's tracker does"


def test_a_tracked_device_that_stays_busy_is_given_up(path, tracker, tracked):
    with Session(path, device=f"{tracker}/phone", token=TOKEN):
        text = refusal(DeviceRefused, path, f"{tracker}/phone", timeout=2)
    assert text == f"the only device called 'phone' at the tracker {tracker} stayed busy for 2 s"


def test_a_tracked_device_is_waited_for(path, tracker, tracked):
    first, steps = Session(path, device=f"{tracker}/phone", token=TOKEN), []

    def progress(step, fraction):
        if not steps:
            first.close()       # once the second one waits
        steps.append(step)

    with Session(path, device=f"{tracker}/phone", token=TOKEN, progress=progress) as second:
        second.run(inputs())
    assert steps[0] == "waiting for a free phone"


def test_a_tracked_device_sends_others_to_its_tracker(path, tracked):
    assert "waits for a client from its tracker" in refusal(DeviceRefused, path, tracked.address)


# The command line


def cli(program, *arguments, token=None):
    file = program.folder.parent / "token"
    file.write_text(f"{token or TOKEN}\n")
    options = ["--device", str(program.address), "--token-file", str(file)]
    return CliRunner().invoke(app, [str(each) for each in (*arguments, *options)])


def test_run_tells_the_devices_time(path, program):
    done = cli(program, "run", path, "--dim", "seq=5", "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["device"] == "pf"
    assert record["ms"] > 0
    assert record["round_trip_ms"] > 0
    assert record["outputs"]["hidden"]["shape"] == [1, 5, 16]
    done = cli(program, "run", path)
    assert "First run on pf (" in done.stderr
    assert "ms by its own clock" in done.stderr


def test_bench_times_on_the_device(path, program):
    done = cli(program, "bench", path, "--runs", 12, "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    (engine,) = record["engines"]
    assert engine["label"].startswith("pocketformer on pf (")
    assert engine["calls"] == 12
    assert 0 < engine["min_ms"] <= engine["median_ms"]
    assert engine["round_trip_ms"] > 0
    done = cli(program, "bench", path, "--runs", 2)
    assert "pocketformer on pf" in done.stdout
    assert "By the device's clock" in done.stderr


def test_only_a_bundle_is_benched_on_a_device(program, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    done = cli(program, "bench", tmp_path / "model.onnx")
    assert done.exit_code == 2
    assert "is no bundle, and only a bundle can run on a device" in done.stderr
    done = cli(program, "bench", tmp_path / "none.pf")
    assert done.exit_code == 2
    assert "none.pf does not exist" in done.stderr


def test_a_refusal_is_one_line_and_exit_code_2(path, program):
    done = cli(program, "run", path, token="wrong")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "refuses the token" in done.stderr
    done = CliRunner().invoke(app, ["run", str(path), "--device", "nonsense"])
    assert done.exit_code == 2
    assert "is no device's address" in done.stderr
