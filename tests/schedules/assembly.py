"""Reads what LLVM made of a kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator


def innermost_loops(code: str) -> Iterator[list[str]]:
    """The instructions of every innermost loop."""
    code = re.sub(r"\n\.Ltmp\d+:", "", code)    # labels for debuggers
    for block in re.split(r"\n(?=\.L\w+:)", code):
        label, _, body = block.partition(":")
        lines = [line.strip() for line in body.splitlines() if re.match(r"\t[a-z]", line)]
        ends = [i for i, line in enumerate(lines) if re.match(r"(b\.?\w*|j\w+)\s", line)
                and line.split()[-1] == label]
        if ends:
            yield lines[: ends[0] + 1]
