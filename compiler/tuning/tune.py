"""tune(): search the fastest points for a model's kernels on a device, and keep all as records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketformer.compiler.tuning.options import RECORDS, TRIALS, Options
from pocketformer.compiler.tuning.result import Tuning
from pocketformer.compiler.tuning.search import Strategy
from pocketformer.compiler.tuning.status import Watcher

if TYPE_CHECKING:
    from pocketformer.compiler.model import Dim
    from pocketformer.compiler.recipe import Recipe
    from pocketformer.targets import Target


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
    strategy: Strategy = "model",
    seed: int = 0,
    cluster: str | None = None,
    token: str | None = None,
    timeout: float = 60.0,
    progress: Watcher | None = None,
) -> Tuning:
    """Find faster points for the kernels of `model` on `device`, and say what they bring.

    `model`, `target`, `example_inputs`, `dims`, `component` and `recipe` are those of `compile`.
    `device` is "host", this machine, or "rpc://host:port/key" of a device or of a tracker, all of
    whose devices of this key measure at once. Dimensions that stay open are measured at `sizes`,
    else at usual ones.

    At most `trials` points are measured, those included that the file `records` already knows from
    this kind of device with as many threads; each is added to it at once, so that a tuning that was
    broken off at any moment goes on where it stood. The search ends earlier where nothing gains any
    more. `strategy` is "model", a cost model that learns from the trials, or "random". `cluster` is
    the address of a dask scheduler whose workers build. Several tunings may add to one file at
    once; they hear of each other's records only when they begin, and need a `seed` of their own not
    to make the same trials.

    `progress` is called with a Status whenever something is known. Raises a PocketformerError for
    what does not fit; after a KeyboardInterrupt the file has all that was measured.
    """
    options = Options(
        device, trials, Path(records), sizes or {}, threads, strategy, seed, cluster, token, timeout
    )
    from pocketformer.compiler.tuning.prepare import Source
    from pocketformer.compiler.tuning.tuner import Tuner

    source = Source.load(
        model, target, recipe, dims, example_inputs=example_inputs, component=component
    )
    tuner = Tuner(source, options, progress)
    tuner.run()
    return tuner.result()
