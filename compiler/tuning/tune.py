"""tune(): search the fastest points for a model's kernels on a device, and keep all as records."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.tuning.result import TaskStatus, Tuning

if TYPE_CHECKING:
    from pocketformer.compiler.model import Dim
    from pocketformer.compiler.recipe import Recipe
    from pocketformer.targets import Target

TRIALS = 512
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Status:
    """How far a tuning is; `left_s` seconds are left, None as long as that is not known."""

    step: str
    tasks: tuple[TaskStatus, ...]
    trials: int
    of_trials: int
    seconds: float
    left_s: float | None
    devices: tuple[tuple[str, str], ...]


Watcher = Callable[[Status], None]


def tune(
    model: Any,
    target: str | Target = "host",
    *,
    device: str = "host",
    trials: int = TRIALS,
    records: str | os.PathLike[str] = RECORDS,
    example_inputs: Any = None,
    dims: Mapping[str, str | int | Dim] | None = None,
    sizes: Mapping[str, int | str] | None = None,
    component: str | None = None,
    recipe: Recipe | str | None = None,
    threads: int | None = None,
    strategy: str = "model",
    seed: int = 0,
    cluster: str | None = None,
    token: str | None = None,
    timeout: float = 60.0,
    progress: Watcher | None = None,
) -> Tuning:
    """Find faster points for the kernels of `model` on `device`, and say what they bring.

    `model`, `target`, `example_inputs`, `dims`, `component` and `recipe` are those of `compile`.
    `device` is "host", this machine, or "rpc://host:port/key" of a device or of a tracker, all of
    whose devices of this key measure at once. Dimensions that stay open are measured at `sizes`.

    At most `trials` points are measured, those included that the file `records` already knows from
    this kind of device with as many threads; each is appended to it at once, so that a tuning that
    was broken off at any moment goes on where it stood. The search ends earlier where nothing gains
    any more. `cluster` is the address of a dask scheduler whose workers build.

    `progress` is called with a Status whenever something is known. Raises a PocketformerError for
    what does not fit; on KeyboardInterrupt, nothing is lost.
    """
    raise NotImplementedError
