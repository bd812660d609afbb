"""pocketformer_device behind TVM's own tracker."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest
import tvm
from tvm import rpc
from tvm.rpc.base import TrackerCode, recvjson, sendjson
from tvm.rpc.client import TrackerSession

from pocketformer.compiler.device.tracker import serve
from tests.runtime.device_server import (
    BUSY,
    MISMATCH,
    TOKEN,
    WELCOME,
    Server,
    free_port,
    hang_up,
    until,
)


class Tracker:
    """TVM's tracker in a process of its own. Forked: importing TVM anew would take seconds."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process = self._client = None

    def start(self) -> None:
        process = get_context("fork").Process(
            target=serve, args=("127.0.0.1", self.port, lambda host, port: None), daemon=True
        )
        process.start()
        until(self._listens)
        self._process, self._client = process, TrackerSession(("127.0.0.1", self.port))

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self._client.close()
        self._process.kill()
        self._process.join()

    def free(self, key: str = "phone") -> int:
        return self._client.summary()["queue_info"].get(key, {}).get("free", 0)

    def addresses(self) -> list[list[object]]:
        return [each["addr"] for each in self._client.summary()["server_info"]]

    def request(self, key: str = "phone") -> str:
        """The word that a free device waits for."""
        client = TrackerSession(("127.0.0.1", self.port))
        with closing(client._sock) as connection:
            connection.settimeout(60)
            sendjson(connection, [TrackerCode.REQUEST, key, "", 1])
            code, (host, _, word) = recvjson(connection)
            client._sock = None
        assert code == TrackerCode.SUCCESS
        assert host in ("127.0.0.1", "phone.example")
        return word


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    running = Tracker(free_port())
    running.start()
    yield running
    running.stop()


@pytest.fixture
def server(tracker: Tracker, tmp_path: Path) -> Iterator[Server]:
    with Server("--tracker", f"localhost:{tracker.port}", folder=tmp_path) as running:
        until(lambda: tracker.free() == 1)
        yield running
    until(lambda: tracker.free() == 0)


def connect(server: Server, word: str) -> rpc.RPCSession:
    return rpc.connect("127.0.0.1", server.port, f"{word} -token={TOKEN}")


def test_a_client_comes_through_the_tracker_again_and_again(tracker, server):
    for _ in range(3):
        session = connect(server, tracker.request())
        assert tracker.free() == 0
        assert server.info()["busy"]
        hang_up(session)
        until(lambda: tracker.free() == 1)
    assert tracker.addresses() == [["127.0.0.1", server.port]]


def test_tvms_runner_can_be_given_the_token(tracker, server):
    """As MetaSchedule's RPCRunner(f_create_session=...) would do it."""
    word = tracker.request()
    session = rpc.connect("127.0.0.1", server.port, f"{word} -token={TOKEN}", session_timeout=5)
    assert session.get_function("pocketformer.device.info")()
    hang_up(session)


def test_the_word_alone_opens_nothing(tracker, server):
    word = tracker.request()
    assert server.greet(f"client:{word}")[0] == MISMATCH
    until(lambda: tracker.free() == 1)          # at once under a new word
    assert server.greet(f"client:{word} -token={TOKEN}")[0] == MISMATCH
    assert server.info()["last_session"] is None


def test_tvms_client_without_the_token_is_refused(tracker, server):
    with pytest.raises(RuntimeError, match="Cannot request phone after 2 retry"):
        rpc.connect_tracker("127.0.0.1", tracker.port).request("phone", max_retry=2)
    until(lambda: tracker.free() == 1)


def test_the_token_alone_does_not_jump_the_queue(tracker, server):
    for key in ("phone", "", "phone:0000000000000000"):
        assert server.greet(f"client:{key} -token={TOKEN}")[0] == MISMATCH
    assert tracker.free() == 1
    session = connect(server, tracker.request())
    assert server.greet(f"client:phone -token={TOKEN} -info")[0] == WELCOME
    hang_up(session)


def test_one_word_lets_one_client_in(tracker, server):
    word = tracker.request()
    session = connect(server, word)
    assert server.greet(f"client:{word} -token={TOKEN}")[0] in (BUSY, MISMATCH)
    hang_up(session)
    until(lambda: tracker.free() == 1)
    with pytest.raises(tvm.error.InternalError, match="cannot find server"):
        connect(server, word)


def test_it_tells_clients_the_address_that_it_is_given(tracker, tmp_path):
    options = ("--tracker", f"127.0.0.1:{tracker.port}", "--advertise", "phone.example")
    with Server(*options, folder=tmp_path, key="far"):
        until(lambda: tracker.free("far") == 1)
        assert tracker.addresses() == [["phone.example", tracker.addresses()[0][1]]]
        assert tracker.request("far").startswith("far:")
    until(lambda: not tracker.addresses())


def test_a_word_that_nobody_uses_is_renewed_and_a_restarted_tracker_is_found(tracker, server):
    unused = tracker.request()
    assert tracker.free() == 0
    until(lambda: tracker.free() == 1)
    assert server.greet(f"client:{unused} -token={TOKEN}")[0] == MISMATCH

    session = connect(server, tracker.request())
    tracker.stop()
    assert session.get_function("pocketformer.device.info")()      # a session needs no tracker
    tracker.start()
    until(lambda: tracker.addresses() == [["127.0.0.1", server.port]])
    assert tracker.free() == 0                  # it is known, and busy
    hang_up(session)
    until(lambda: tracker.free() == 1)
    hang_up(connect(server, tracker.request()))
    until(lambda: tracker.free() == 1)


def test_a_tracker_may_come_later_and_may_be_none(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        with Server("--tracker", place, folder=tmp_path, log=tmp_path / "log") as server:
            first, _ = silent.accept()
            with first:
                assert first.recv(4) == b"\x71\xf2\x02\x00"
                began = time.monotonic()
                assert server.info()["busy"] is False           # nobody waits for a silent tracker
                assert time.monotonic() - began < 4.5     # of five
                first.sendall(b"HTTP/1.1 400")
            second, _ = silent.accept()
            with second:
                assert second.recv(4)
                second.sendall(b"\x71\xf2\x02\x00\xff\xff\xff\x7f")
            silent.accept()[0].close()
            assert server.info()["busy"] is False
        assert (tmp_path / "log").read_text().count("is no tracker; trying on") == 1
