"""pocketformer_device: uploads, files that stay in their folder, disks that are full."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from pocketformer.compiler.bundle import Bundle
from tests.compiler.tiny import Tiny, build, expected, inputs, tiny_manifest, tiny_weights
from tests.runtime.device_server import Server, hang_up, kernels

OUTSIDE = ["../x", "..", ".", "/etc/passwd", "a/b", "a/../../x", "", ".hidden", "a\nb", "x" * 300]


@pytest.fixture
def server(tmp_path: Path):
    with Server(folder=tmp_path / "home") as running:
        yield running


class Device:
    """The device's own functions, over TVM's client."""

    def __init__(self, server: Server) -> None:
        self._session = server.connect()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._session.get_function("pocketformer." + name.replace("_", ".", 1))

    def upload(self, data: bytes, sha256: str = "", size: int | None = None) -> str:
        sha256 = sha256 or hashlib.sha256(data).hexdigest()
        self.device_begin(sha256, len(data) if size is None else size)
        for at in range(0, len(data), 1 << 16):
            self.device_append(sha256, data[at : at + (1 << 16)])
        self.device_commit(sha256)
        return sha256


def said(error: pytest.ExceptionInfo[tvm.error.RPCError]) -> str:
    """The device's one sentence."""
    first, _, sentence = str(error.value).partition("\n")
    assert first == "RPCError: Error caught from RPC call:"
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_out_of_the_folder(server, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    session = server.connect()
    for function, more in (
        ("upload", [b"data"]), ("download", []), ("remove", []), ("load_module", []),
        ("workpath", []),
    ):
        with pytest.raises(tvm.error.RPCError) as caught:
            session.get_function(f"tvm.rpc.server.{function}")(name, *more)
        assert "is no plain file name" in said(caught)
    device = Device.__new__(Device)
    device._session = session
    for call in (
        lambda: device.device_stored(name, 1), lambda: device.device_begin(name, 1),
        lambda: device.device_append(name, b""), lambda: device.device_commit(name),
        lambda: device.device_forget(name),
    ):
        with pytest.raises(tvm.error.RPCError) as caught:
            call()
        assert "is no sha256" in said(caught)
    stored = device.upload(b"content")
    for files in ({name: {"sha256": stored}}, {"model.so": {"sha256": name}}):
        with pytest.raises(tvm.error.RPCError) as caught:
            device.session_open(json.dumps({"files": files}).encode(), 1)
        assert "is no " in said(caught)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - set(before)
    assert made == {server.folder / "files" / stored}


def test_tvms_functions_reach_no_other_files_and_machines(server, bad_kernels):
    session = server.connect()
    with pytest.raises(tvm.error.RPCError) as caught:
        session.get_function("ffi.ModuleLoadFromFile")(str(bad_kernels))
    assert "lies outside the folder" in said(caught)
    session.upload(str(bad_kernels))
    inside = session.get_function("tvm.rpc.server.workpath")("kernels.so")
    outside = f"{inside[: -len('kernels.so')]}../../../../{bad_kernels.parent.name}/kernels.so"
    with pytest.raises(tvm.error.RPCError, match="lies outside the folder"):
        session.get_function("ffi.ModuleLoadFromFile")(outside)
    for name in ("rpc.Connect", "rpc.ServerLoop", "ffi.ModuleWriteToFile",
                 "relax.ExecutableLoadFromFile"):
        with pytest.raises(AttributeError):
            session.get_function(name)


def test_only_libraries_are_loaded(server):
    session = server.connect()
    session.upload(bytearray(b"no library"), "model.so")
    with pytest.raises(tvm.error.RPCError):
        session.load_module("model.so")
    with pytest.raises(tvm.error.RPCError, match=r"only a \.so can be loaded here, not 'model\.o'"):
        session.load_module("model.o")
    with pytest.raises(tvm.error.RPCError, match=r"has no file 'other\.so'"):
        session.load_module("other.so")


def test_a_library_that_is_uploaded_again_is_loaded_again(server, bad_kernels, tmp_path):
    session, old = server.load(bad_kernels)
    session.upload(str(kernels(tmp_path, "-DNEWER=changed")))
    new = session.load_module("kernels.so")
    assert new["changed"]() is None
    assert old["answer"]() is None


def test_uploads_are_kept_from_session_to_session(server):
    data = os.urandom(200_000)
    device = Device(server)
    sha256 = hashlib.sha256(data).hexdigest()
    assert not device.device_stored(sha256, len(data))
    device.upload(data)
    hang_up(device._session)
    assert server.ended() == "normally"
    device = Device(server)
    assert device.device_stored(sha256, len(data))
    assert not device.device_stored(sha256, len(data) + 1)
    stored = server.folder / "files" / sha256
    assert stored.read_bytes() == data
    assert stat.S_IMODE(stored.stat().st_mode) == 0o400
    device.upload(data)         # once more does no harm
    device.upload(b"")
    assert not list(server.folder.glob("files/.*"))


@pytest.mark.parametrize(("sent", "size"), [
    (b"X" + bytes(99_999), 100_000), (bytes(99_999), 100_000), (bytes(100_001), 100_000),
], ids=["changed", "short", "long"])
def test_a_damaged_upload_is_noticed(server, sent, size):
    sha256 = hashlib.sha256(bytes(100_000)).hexdigest()
    device = Device(server)
    with pytest.raises(tvm.error.RPCError) as caught:
        device.upload(sent, sha256, size)
    assert "damaged in transit" in said(caught)
    assert not list(server.folder.glob("files/*"))
    assert not list(server.folder.glob("files/.*"))
    with pytest.raises(tvm.error.RPCError, match="no upload of"):
        device.device_commit(sha256)
    device.upload(bytes(100_000), sha256)
    assert device.device_stored(sha256, 100_000)


def test_bytes_are_not_taken_one_by_one(server):
    session = server.connect()
    data = os.urandom(64 << 20)
    session.upload(bytearray(data), "weights")
    assert session.download("weights") == data
    # The processor's seconds for the session: one by one they are more than half of one.
    assert server.children[0].cpu_times().user < 0.2


def test_an_upload_that_breaks_off_leaves_nothing(server):
    device = Device(server)
    sha256 = hashlib.sha256(b"whole").hexdigest()
    device.device_begin(sha256, 5)
    device.device_append(sha256, b"wh")
    assert list(server.folder.glob("files/.*.part"))
    server.children[0].kill()
    assert server.ended() == "signal 9"
    assert not list(server.folder.glob("files/.*"))


def test_more_than_the_disk_holds_is_refused_before_it_is_sent(server):
    with pytest.raises(tvm.error.RPCError) as caught:
        Device(server).device_begin("0" * 64, 1 << 60)
    assert "no space left on the device for 1152921504606846976 bytes" in said(caught)
    assert " bytes are free in " in said(caught)


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path):
    limited = ["sh", "-c", 'ulimit -f 64; exec "$0" "$@"']      # 32 or 64 KiB, as the shell counts
    with Server(folder=tmp_path, before=limited) as server:
        device, data = Device(server), os.urandom(200_000)
        with pytest.raises(tvm.error.RPCError) as caught:
            device.upload(data)
        assert "no space left on the device" in said(caught)
        with pytest.raises(tvm.error.RPCError, match="no space left on the device for big"):
            device._session.upload(bytearray(data), "big")
        assert device.upload(b"small enough")
        assert not list(tmp_path.glob("files/.*"))
        assert not [path for path in tmp_path.glob("sessions/1/*") if path.is_file()]


def test_a_full_disk_is_named_and_the_server_lives_on(tmp_path):
    small = ["unshare", "-rm", "sh", "-c",
             f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$0" "$@"']
    if subprocess.run([*small, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    with Server(folder=tmp_path / "home", before=small) as server:
        device, data = Device(server), os.urandom(700_000)
        device.upload(data)
        with pytest.raises(tvm.error.RPCError) as caught:
            device._session.upload(bytearray(data), "big")
        assert "no space left on the device for big" in said(caught)
        free = server.info()["free_bytes"]
        device.upload(os.urandom(free))         # what failed has left nothing behind
        assert server.info()["free_bytes"] == 0
        with pytest.raises(tvm.error.RPCError, match="no space left"):
            device._session.upload(bytearray(b"x"), "small")
        with pytest.raises(tvm.error.RPCError, match="no space left"):
            device.session_open(_manifest(data), 1)
        hang_up(device._session)
        assert server.ended() == "normally"
        assert Device(server).device_stored(hashlib.sha256(data).hexdigest(), len(data))


def _manifest(data: bytes) -> bytes:
    files = {"model.so": {"sha256": hashlib.sha256(data).hexdigest()}}
    return json.dumps({"files": files}).encode()


def test_a_file_that_the_disk_has_damaged_is_uploaded_again(server):
    device, data = Device(server), os.urandom(1000)
    sha256 = device.upload(data)
    stored = server.folder / "files" / sha256
    stored.chmod(0o600)
    stored.write_bytes(bytes(1000))
    with pytest.raises(tvm.error.RPCError):
        device.session_open(_manifest(data), 1)
    assert not device.device_stored(sha256, len(data))
    assert not list(server.folder.glob("sessions/1/*"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    library = build(Tiny, folder / "tiny.so")
    Bundle.create(library, tiny_weights(), tiny_manifest()).save(folder / "tiny.pf")
    return folder / "tiny.pf"


@pytest.fixture
def opened(server: Server, tiny: Path) -> tuple[Device, int]:
    """A device, and the number of the tiny model's bundle that is open there."""
    device = Device(server)
    for name in ("model.so", "weights.safetensors"):
        device.upload((tiny / name).read_bytes())
    return device, device.session_open((tiny / "manifest.json").read_bytes(), 1)


def test_what_a_client_lets_it_forget_is_not_kept(server, opened, tiny):
    device, handle = opened
    for file in (tiny / "model.so", tiny / "weights.safetensors"):
        data = file.read_bytes()
        for _ in range(2):      # what is not there any more may be forgotten again
            device.device_forget(hashlib.sha256(data).hexdigest())
        assert not device.device_stored(hashlib.sha256(data).hexdigest(), len(data))
    assert not list(server.folder.glob("files/*"))
    for i, array in enumerate(inputs().values()):
        device.session_set(handle, i, array.tobytes(), "x".join(map(str, array.shape)))
    device.session_run(handle, 0, 1)        # it stays open


def test_a_bundle_runs_from_the_store(opened):
    device, handle = opened
    assert json.loads(device.session_describe(handle)) == {
        "inputs": [
            {"name": "x", "dtype": "float32", "shape": ["batch", "seq", "8"]},
            {"name": "shift", "dtype": "float32", "shape": ["batch", "seq"]},
        ],
        "outputs": [
            {"name": "hidden", "dtype": "float32", "shape": ["batch", "seq", "16"]},
            {"name": "same", "dtype": "float32", "shape": ["batch", "seq", "8"]},
        ],
        "threads": 1,
        "level": "",
    }
    given = inputs(batch=2, seq=3)
    for place, array in enumerate(given.values()):
        device.session_set(handle, place, array.tobytes(), "x".join(map(str, array.shape)))
    times = np.frombuffer(device.session_run(handle, 2, 5), "<i8")
    assert len(times) == 5
    assert (times > 0).all()
    assert device.session_output_shape(handle, 0) == "2x3x16"
    result = np.frombuffer(device.session_output(handle, 0), "float32").reshape(2, 3, 16)
    np.testing.assert_allclose(result, expected(**given), rtol=1e-5, atol=1e-5)
    assert device.session_output(handle, 1) == given["x"].tobytes()
    for calls in json.loads(device.session_profile(handle, 2)):
        assert calls
        assert all(name and start <= end for name, start, end in calls)


def test_more_threads_than_cpus_are_as_many_as_cpus(opened, tiny):
    device, _ = opened
    manifest = (tiny / "manifest.json").read_bytes()
    handle = device.session_open(manifest, 2**40)
    assert json.loads(device.session_describe(handle))["threads"] <= os.cpu_count()
    with pytest.raises(tvm.error.RPCError) as caught:
        device.session_open(manifest, -(2**40))
    assert "threads is -1, it must be a whole number" in said(caught)


def test_a_closed_bundle_is_gone(opened, server):
    device, handle = opened
    assert (server.folder / "sessions/1" / str(handle) / "model.so").stat().st_nlink == 2
    device.session_close(handle)
    assert not list((server.folder / "sessions/1").iterdir())
    for call in (
        lambda: device.session_run(handle, 0, 1), lambda: device.session_close(handle),
        lambda: device.session_describe(handle), lambda: device.session_output(handle, 0),
    ):
        with pytest.raises(tvm.error.RPCError, match="no bundle is open as number 1"):
            call()


@pytest.mark.parametrize(("call", "words"), [
    (lambda device, handle: device.session_set(handle, 2, b"", ""), "no input 2; the bundle has 2"),
    (lambda device, handle: device.session_set(handle, -1, b"", ""), "no input -1"),
    (lambda device, handle: device.session_set(handle, 0, b"", "1x"), "'1x' is no shape"),
    (lambda device, handle: device.session_set(handle, 0, b"", "1,2"), "'1,2' is no shape"),
    (lambda device, handle: device.session_set(handle, 0, b"", "-1"), "'-1' is no shape"),
    (lambda device, handle: device.session_set(handle, 0, b"", "9" * 30), "is no shape"),
    (lambda device, handle: device.session_set(handle, 0, bytes(3), "1x1x8"), "bytes"),
    (lambda device, handle: device.session_output(handle, 7), "no output 7"),
    (lambda device, handle: device.session_run(handle, 0, -1), "-1 runs at once"),
    (lambda device, handle: device.session_run(handle, 1 << 40, 1), "runs at once"),
    (lambda device, handle: device.session_profile(handle, 1 << 40), "runs at once"),
    (lambda device, handle: device.session_run(handle, 0, 1), "x"),
    (lambda device, handle: device.session_open(b"[]", 1), "manifest.json"),
    (lambda device, handle: device.session_open(b"{}", 1), "manifest.json names no files"),
    (lambda device, handle: device.session_open(_manifest(b"absent"), 1), "does not hold model.so"),
])
def test_a_mistake_of_a_client_gets_one_sentence(opened, call, words):
    with pytest.raises(tvm.error.RPCError) as caught:
        call(*opened)
    assert words in said(caught)
    assert opened[0].session_describe(opened[1])        # and does no harm


def test_links_are_replaced_by_copies_where_there_are_none(server, tiny, tmp_path):
    device = Device(server)
    other = tmp_path / "other"
    for name in ("model.so", "weights.safetensors"):
        device.upload((tiny / name).read_bytes())
    elsewhere = Path("/dev/shm") / f"pocketformer-test-{os.getpid()}"
    if not Path("/dev/shm").is_dir() or elsewhere.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one disk here")
    shutil.copytree(server.folder / "files", elsewhere)
    try:
        other.mkdir()
        (other / "files").symlink_to(elsewhere)
        with Server(folder=other) as second:
            handle = Device(second).session_open((tiny / "manifest.json").read_bytes(), 1)
            assert handle == 1
    finally:
        shutil.rmtree(elsewhere)
