"""What a user says about a tuning, beside model and target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.errors import BadInput
from pocketformer.compiler.replace import check_file
from pocketformer.compiler.tuning.devices import HOST
from pocketformer.compiler.tuning.search import Strategy

TRIALS = 512
RECORDS = "records.jsonl"
STRATEGIES = get_args(Strategy)
RANDOM = "random"


@dataclass(frozen=True)
class Options:
    """See `tune`. Raises BadInput for what cannot be."""

    device: str = HOST
    trials: int = TRIALS
    records: Path = Path(RECORDS)
    sizes: Mapping[str, int | str] = field(default_factory=dict)
    threads: int | None = None
    strategy: str = "model"
    seed: int = 0
    cluster: str | None = None
    token: str | None = None
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if type(self.trials) is not int or self.trials < 1:
            raise BadInput(f"trials is {self.trials!r}, it must be a whole number from 1 on")
        if self.strategy not in STRATEGIES:
            raise BadInput(f"strategy is {self.strategy!r}, not {' or '.join(STRATEGIES)}")
        if not self.records.is_file():      # one that is there is added to
            check_file(self.records, "records are one file")
        if not self.here:
            Address.parse(self.device)

    @property
    def here(self) -> bool:
        """Whether this machine measures."""
        return self.device == HOST
