"""Starts the real pocketformer_device of this machine, and talks to it as clients do."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from tvm import rpc

from pocketformer import runtime
from pocketformer.compiler.machine import this_machine
from pocketformer.runtime import toolchain

TOKEN = "open-sesame"
WELCOME, BUSY, MISMATCH = 0xFF271, 0xFF272, 0xFF273

KERNELS = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define KERNEL(name) FUNCTION(name)
#define FUNCTION(name) __attribute__((visibility("default"))) \\
    int __tvm_ffi_##name(void* self, void* arguments, int32_t count, void* result)
#ifndef NEWER
#define NEWER answer
#endif
KERNEL(NEWER) { return 0; }
KERNEL(hang) { for (volatile int i = 0;; ++i) {} }
KERNEL(crash) { *(volatile int*)0 = 1; return 0; }
KERNEL(leave) { exit(3); }
KERNEL(talk) { puts("a kernel's words"); fflush(stdout); return 0; }
KERNEL(spawn) { if (fork() == 0) for (;;) pause(); return 0; }
"""


@cache
def program() -> Path:
    return runtime.build("host").device


def kernels(folder: Path, *flags: str) -> Path:
    """A library of functions that do what kernels should not."""
    source, library = folder / "kernels.c", folder / "kernels.so"
    source.write_text(KERNELS)
    tools = toolchain.find(this_machine().arch, "linux", None)
    subprocess.run(
        [*tools.cc, "-shared", "-fPIC", "-w", *flags, str(source), "-o", str(library)],
        env={**os.environ, **tools.environment}, check=True,
    )
    return library


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `condition` returns, once that is something."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """One that the system gives to nobody else meanwhile, neither to servers nor to clients: who
    dials such a port while nobody listens there may reach itself."""
    while True:
        port = random.randrange(15000, 30000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := connection.recv(count - len(data))):
        data += piece
    return data


def hang_up(session: rpc.RPCSession) -> None:
    """End a session that an error's traceback may still hold."""
    session.get_function("CloseRPCConnection")()


class Server:
    """A running server; `folder` is its own, or None for a temporary one."""

    def __init__(
        self, *options: str, folder: Path | None = None, key: str = "phone",
        before: Sequence[str] = (), log: Path | None = None,
    ) -> None:
        argv = [*before, str(program()), "--port", "0", "--key", key, *options]
        if folder:
            argv += ["--folder", str(folder)]
        self.key, self.folder = key, folder
        with open(log or os.devnull, "w") as errors:
            self.process = subprocess.Popen(
                argv, env={**os.environ, "POCKETFORMER_TOKEN": TOKEN, "TVM_NUM_THREADS": "1"},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )
        self.ready = self.process.stdout.readline()
        assert self.ready.startswith("ready "), self.ready
        self.port = int(self.ready.split()[1].rpartition(":")[2])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdin.close()
            self.process.stdout.close()

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def greet(self, text: str | bytes, more: bytes = b"") -> tuple[int, socket.socket]:
        """The code that the greeting `text` is answered with, 0 for none."""
        connection = self.dial()
        words = text.encode() if isinstance(text, str) else text
        connection.sendall(struct.pack("<ii", WELCOME, len(words)) + words + more)
        answer = exactly(connection, 4)
        return (struct.unpack("<i", answer)[0] if answer else 0), connection

    def info(self) -> dict[str, Any]:
        code, connection = self.greet(f"client:{self.key} -token={TOKEN} -info")
        with connection:
            assert code == WELCOME
            (size,) = struct.unpack("<i", exactly(connection, 4))
            text = exactly(connection, size)
            assert len(text) == size
            assert connection.recv(1) == b""
            return json.loads(text)

    def ended(self) -> str:
        """How the last session ended, once none is running."""
        return until(lambda: not (found := self.info())["busy"] and found["last_session"])["ended"]

    def connect(self, *words: str) -> rpc.RPCSession:
        """A session of TVM's own client."""
        key = " ".join([self.key, f"-token={TOKEN}", *words])
        return rpc.connect("127.0.0.1", self.port, key)

    def load(self, library: Path, *words: str) -> tuple[rpc.RPCSession, Any]:
        """A session, and a library that it has uploaded and loaded."""
        session = self.connect(*words)
        session.upload(str(library))
        return session, session.load_module(library.name)
