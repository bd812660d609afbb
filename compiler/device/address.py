"""Where a device is: `rpc://host:port/key`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pocketformer.compiler.errors import BadInput

PORT = 9190       # where TVM's tracker and servers listen, too
_FORM = re.compile(r"(?:rpc://)?(?:\[([\w:.%]+)\]|([\w.-]+)):(\d{1,5})(?:/([^/\s]*))?")


@dataclass(frozen=True)
class Address:
    """A device's or a tracker's host and port; `key` is the device's name, "" where none is said.

    `str()` gives the text that `parse` reads.
    """

    host: str
    port: int
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """`rpc://127.0.0.1:9190/pixel8`, `127.0.0.1:9190` or `[::1]:9190`. Raises BadInput."""
        found = _FORM.fullmatch(text.strip())
        if not found or not 0 < int(found[3]) < 1 << 16:
            raise BadInput(
                f"{text!r} is no device's address; write rpc://HOST:PORT/KEY, "
                "such as rpc://127.0.0.1:9190/pixel8"
            )
        return cls(found[1] or found[2], int(found[3]), found[4] or "")

    @property
    def place(self) -> str:
        """`host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"rpc://{self.place}" + (f"/{self.key}" if self.key else "")
