"""What has no template."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pocketformer.schedules.workloads.checks import require


@dataclass(frozen=True)
class Function:
    """A function that the compiler made of operators without a template: it is its own definition.

    `key` is the sha256 of its text before any schedule (see replay.key_of) and tells it from all
    others; `name` is for people, without numbers. `text` is its code where that is known, as TVM's
    JSON: it never comes from a file.
    """

    name: str = field(compare=False)
    key: str
    text: str = field(default="", compare=False, repr=False, metadata={"local": True})

    def __post_init__(self) -> None:
        require(re.fullmatch(r"[0-9a-f]{64}", self.key) is not None, "the key is no sha256")
        require(re.fullmatch(r"\w{1,500}", self.name) is not None, "the name is no identifier")

    def __str__(self) -> str:
        return f"{self.name}_{self.key[:12]}"
