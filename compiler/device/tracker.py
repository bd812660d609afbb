"""TVM's own tracker, which hands out free devices by their keys, in this process."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import logging
import secrets
import socket
import struct
from collections.abc import Callable
from typing import Any

from pocketformer.compiler.errors import MissingPackage, SetUpFailed

NEEDS = ("tornado", "psutil", "cloudpickle")


def serve(host: str, port: int, ready: Callable[[str, int], None]) -> None:
    """Run a tracker at `host` and `port` (0 = any) until Ctrl-C; calls `ready` once it listens.

    A tracker asks no client for a token: it only tells where devices are. Raises SetUpFailed at
    once if the port is taken, MissingPackage without what TVM's tracker needs.
    """
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise MissingPackage(
            f"TVM's tracker needs {' and '.join(missing)}; "
            "install what is missing: pip install 'pocketformer[device]'"
        )
    with _listen(host, port) as listening:
        from tvm.rpc.tracker import TrackerServerHandler

        loop = asyncio.new_event_loop()
        loop.set_exception_handler(_complain)
        asyncio.set_event_loop(loop)
        logging.getLogger("RPCTracker").setLevel(logging.ERROR)
        tracker = TrackerServerHandler(listening, secrets.token_hex())
        ready(host, listening.getsockname()[1])
        try:
            tracker.run()
        finally:
            tracker.stop()


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of a fault, but not of a client's that takes this for a device, and learns better."""
    if not isinstance(context.get("exception"), struct.error):
        loop.default_exception_handler(context)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A tracker that was just stopped must not keep its successor from the port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise SetUpFailed(
                f"port {port} of {host} is taken; pick another with --port, 0 for any free one"
            ) from None
        reason = error.strerror or error
        raise SetUpFailed(f"a tracker cannot listen at {host}:{port}: {reason}") from None
    return listening
