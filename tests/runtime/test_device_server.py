"""pocketformer_device: who gets in, and what a session cannot do to it."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
import tvm

from tests.runtime.device_server import (
    BUSY,
    MISMATCH,
    TOKEN,
    WELCOME,
    Server,
    exactly,
    program,
    until,
)

GOOD = f"client:phone -token={TOKEN}"


@pytest.fixture
def server(tmp_path: Path):
    with Server(folder=tmp_path / "home") as running:
        yield running


def run(*options: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "POCKETFORMER_TOKEN"}
    env |= {} if token is None else {"POCKETFORMER_TOKEN": token}
    return subprocess.run(
        [program(), *options], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def init_and_upload() -> bytes:
    """What TVM's client sends to begin a session, and a call of a function that it looks up."""
    version = b"0.8.0"
    packet = struct.pack("<iQ", 1, len(version)) + version + struct.pack("<i", 0)
    name = b"tvm.rpc.server.upload"
    call = struct.pack("<iiiQ", 4, 1, 8, len(name)) + name
    return b"".join(struct.pack("<Q", len(each)) + each for each in (packet, call))


@pytest.mark.parametrize("greeting", [
    "client:phone",
    "client:phone -token=",
    "client:phone -token=wrong",
    f"client:phone -token={TOKEN[:-1]}",
    f"client:phone -token={TOKEN}x",
    f"client:phone -token={TOKEN.upper()}",
    f"client:phone {TOKEN}",
    f"client:phone -Token={TOKEN}",
    "client:phone -info",
    "client: -token=wrong -info",
    f"client:phone -token={TOKEN} -token=wrong",
    f"client:-token={TOKEN}",
    f"-token={TOKEN} client:phone",
    f"server:phone -token={TOKEN}",
    f"client:phone -token={TOKEN} -timeout=soon",
    f"client:phone -token={TOKEN} -timeout=-1",
    f"client:other -token={TOKEN}",
])
def test_without_the_token_nothing_can_be_called(server, greeting):
    before = sorted(server.folder.rglob("*"))
    code, connection = server.greet(greeting, init_and_upload())
    with connection:
        assert code == MISMATCH
        with suppress(ConnectionResetError):    # what came behind the greeting was never read
            assert connection.recv(100) == b""
    assert not server.children
    assert sorted(server.folder.rglob("*")) == before
    assert server.info()["last_session"] is None


def test_tvms_own_client_gets_in_with_the_token_in_its_key(server, bad_kernels):
    with pytest.raises(tvm.error.InternalError, match="cannot find server"):
        tvm.rpc.connect("127.0.0.1", server.port, "phone")
    session, library = server.load(bad_kernels)
    assert library["answer"]() is None
    session.upload(bytearray(b"some bytes"), "notes.txt")
    assert session.download("notes.txt") == b"some bytes"
    session.remove("notes.txt")
    with pytest.raises(tvm.error.RPCError, match=r"has no file 'notes\.txt'"):
        session.download("notes.txt")


def test_an_empty_key_means_whatever_device_is_there(server):
    code, connection = server.greet(f"client: -token={TOKEN}")
    with connection:
        assert code == WELCOME
        assert exactly(connection, 4 + 12) == struct.pack("<i", 12) + b"server:phone"


@pytest.mark.parametrize(("options", "token", "words"), [
    ((), None, "nobody in without a token"),
    ((), "", "nobody in without a token"),
    ((), "two words", "is no token"),
    ((), "x" * 257, "is no token"),
    (("--token-file", "/nowhere"), TOKEN, "/nowhere is empty or cannot be read"),
    (("--port", "70000"), TOKEN, "a port from 0 to 65535, not '70000'"),
    (("--port",), TOKEN, "--port needs a value"),
    (("--key", "a b"), TOKEN, "not 'a b'"),
    (("--key", "a/b"), TOKEN, "not 'a/b'"),
    (("--tracker", "9190"), TOKEN, "HOST:PORT, not '9190'"),
    (("--tracker", "nowhere.invalid:9190", "--port", "0"), TOKEN, "cannot find the host"),
    (("--token", TOKEN), TOKEN, "there is no option '--token'"),
    (("--host", "192.0.2.1"), TOKEN, "cannot listen at 192.0.2.1:9190"),
    (("--folder", "/proc/nowhere", "--port", "0"), TOKEN, "the folder nowhere to /proc:"),
])
def test_it_does_not_start_on_a_mistake(options, token, words):
    done = run(*options, token=token)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_the_token_may_come_from_a_file(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    with Server("--token-file", str(file)) as server:
        assert server.greet(GOOD)[0] == MISMATCH
        assert server.greet("client:phone -token=from-a-file")[0] == WELCOME


def test_a_taken_port_is_refused_at_once(server):
    began = time.monotonic()
    done = run("--port", str(server.port))
    assert time.monotonic() - began < 20
    assert done.returncode == 2
    assert f"127.0.0.1:{server.port} is taken; choose another port" in done.stderr


def test_two_servers_do_not_share_a_folder(server):
    done = run("--port", "0", "--folder", str(server.folder))
    assert done.returncode == 2
    assert "another pocketformer_device is at work in" in done.stderr


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    precious = tmp_path / "sessions" / "1" / "notes"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    done = run("--port", "0", "--folder", str(tmp_path))
    assert done.returncode == 2
    assert f"{tmp_path}/sessions is not of this program's making" in done.stderr
    assert precious.read_text() == "mine"
    assert not (tmp_path / "lock").exists()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o757)
    done = run("--port", "0", "--folder", str(tmp_path))
    assert done.returncode == 2
    assert f"other users can write to {tmp_path}, and so run code as this one" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_and_version_need_no_token():
    assert "encrypted" in run("--help", token=None).stdout
    assert "TVM 0." in run("--version", token=None).stdout


def test_a_second_client_is_told_that_the_device_is_busy(server):
    first = server.connect()
    code, second = server.greet(GOOD)
    with second:
        assert code == BUSY
    assert server.greet("client:phone -token=wrong")[0] == MISMATCH     # and no more than that
    assert server.info()["busy"]
    del first
    assert server.ended() == "normally"
    assert psutil.Process(server.process.pid).num_threads() == 1       # so that it can fork
    assert server.connect().get_function("pocketformer.device.info")() is not None


def test_it_describes_itself(server):
    found = server.info()
    assert found["key"] == "phone"
    assert found["busy"] is False
    assert found["runtime"]["tvm"] == "0.27.0.post1"
    assert found["free_bytes"] > 0


def run_forever(server: Server, library: Path) -> None:
    server.load(library)[1]["hang"]()


def test_a_killed_client_frees_the_device(server, bad_kernels):
    # Forked: importing TVM anew would take seconds.
    client = get_context("fork").Process(target=run_forever, args=(server, bad_kernels))
    client.start()
    kernel = until(lambda: server.children and server.children[0])
    until(lambda: kernel.cpu_times().user > 0.1)
    killed = time.monotonic()
    client.kill()
    client.join()
    busy = server.info()["busy"]                # for a second, in which it may finish
    assert busy or time.monotonic() - killed > 1
    assert server.ended() == "hung up"
    assert not server.children


def test_a_client_that_vanishes_between_calls_frees_the_device(server):
    code, connection = server.greet(GOOD)
    assert code == WELCOME
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert server.ended() in ("normally", "hung up")


def test_a_hung_kernel_ends_with_its_sessions_time(server, bad_kernels):
    session, library = server.load(bad_kernels, "-timeout=0.5")
    with pytest.raises(tvm.error.RPCSessionTimeoutError, match="time is up"):
        library["hang"]()
    assert server.ended() == "timed out"
    assert server.connect().get_function("pocketformer.device.info")() is not None
    del session


@pytest.mark.parametrize(("kernel", "end"), [("crash", "signal 11"), ("leave", "exit code 3")])
def test_a_session_that_dies_takes_nothing_with_it(server, bad_kernels, kernel, end):
    session, library = server.load(bad_kernels)
    with pytest.raises(tvm.error.InternalError):
        library[kernel]()
    assert server.ended() == end
    assert server.info()["last_session"]["seconds"] >= 0
    assert not list((server.folder / "sessions").iterdir())
    assert server.load(bad_kernels)[1]["answer"]() is None
    del session


def test_a_killed_session_takes_nothing_with_it(server):
    session = server.connect()
    server.children[0].kill()
    assert server.ended() == "signal 9"
    assert server.connect().get_function("pocketformer.device.info")() is not None
    del session


def test_what_a_kernel_starts_ends_with_the_session(server, bad_kernels):
    session, library = server.load(bad_kernels)
    library["spawn"]()
    (started,) = server.children[0].children()
    del library, session
    assert server.ended() == "normally"
    until(lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE)


def test_standard_output_is_one_line(server, bad_kernels):
    session, library = server.load(bad_kernels)
    library["talk"]()
    del library, session
    assert server.ended() == "normally"
    server.process.terminate()
    assert server.ready == f"ready 127.0.0.1:{server.port} key=phone\n"
    assert server.process.stdout.read() == ""


@pytest.mark.parametrize("words", [
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack("<i", 0x2F271),                                     # what a tracker is greeted with
    struct.pack("<ii", WELCOME, 0),
    struct.pack("<ii", WELCOME, -1),
    struct.pack("<ii", WELCOME, 1 << 30) + b"x" * 5000,
    struct.pack("<ii", WELCOME, 1025) + b"x" * 1025,
    os.urandom(3000),
], ids=["http", "tracker", "empty", "negative", "huge", "long", "random"])
def test_garbage_is_not_listened_to(server, words):
    with server.dial() as connection, suppress(ConnectionError):
        connection.sendall(words)
        assert connection.recv(1) == b""
    assert server.info()["last_session"] is None


def test_a_log_that_nobody_reads_does_not_stop_it(tmp_path):
    reading, writing = os.pipe()
    with Server(log=Path(f"/proc/self/fd/{writing}")) as server:
        for _ in range(2000):       # more lines than a pipe takes
            server.greet("client:phone")[1].close()
        assert server.info()["busy"] is False
        assert os.read(reading, 20) == b"pocketformer_device:"
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("words", [b"\0" * 9, b" " * 9, b"client:\xff\xfe", b"-info", b"client:"])
def test_words_without_meaning_are_refused(server, words):
    code, connection = server.greet(words)
    connection.close()
    assert code == MISMATCH


def test_silent_clients_keep_nobody_out(server):
    silent = [server.dial() for _ in range(99)]
    began = time.monotonic()
    silent.append(server.dial())
    silent[-1].sendall(struct.pack("<ii", WELCOME, 100) + b"client:ph")
    assert server.info()["busy"] is False
    session = server.connect()
    assert session.get_function("pocketformer.device.info")() is not None
    assert time.monotonic() - began < 4.5       # before the others are sent away
    assert silent[-1].recv(1) == b""            # it was given five seconds
    assert time.monotonic() - began > 4.9
    for connection in silent:
        connection.close()


def test_a_greeting_may_come_in_pieces(server):
    text = GOOD.encode()
    with server.dial() as connection:
        for byte in struct.pack("<ii", WELCOME, len(text)) + text:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        assert exactly(connection, 4) == struct.pack("<i", WELCOME)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_cleans_up(tmp_path, bad_kernels, monkeypatch, how):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Server() as server:
        session, _ = server.load(bad_kernels)
        (child,) = server.children
        assert list(tmp_path.glob("*/sessions/1/kernels.so"))
        server.process.send_signal(how)
        assert server.process.wait(60) == 0
        until(lambda: not child.is_running())
    assert not list(tmp_path.iterdir())
    del session


def test_it_ends_with_its_standard_input_where_that_is_wanted(tmp_path, bad_kernels):
    with Server("--with-stdin", folder=tmp_path) as server:
        session, _ = server.load(bad_kernels)
        (child,) = server.children
        server.process.stdin.close()
        assert server.process.wait(60) == 0
        until(lambda: not child.is_running())
    assert not list(tmp_path.glob("sessions/*"))
    with Server(folder=tmp_path) as server:
        server.process.stdin.close()
        assert server.info()["key"] == "phone"      # it is not wanted
    del session


def test_a_killed_server_leaves_no_session_behind(tmp_path, bad_kernels):
    with Server(folder=tmp_path) as server:
        session, _ = server.load(bad_kernels)
        (child,) = server.children
        server.process.kill()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert (tmp_path / "sessions/1/kernels.so").exists()
    with Server(folder=tmp_path):
        assert not list((tmp_path / "sessions").iterdir())     # the next one tidies up
    del session
