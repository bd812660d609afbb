"""AccuracyReport: what fewer bits cost in answers, and bring in size and time; kept in a bundle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pocketformer.compiler.decode import OPTIONAL
from pocketformer.compiler.errors import BadBundle


@dataclass(frozen=True)
class LayerReport:
    """A layer, what it computes in, and how it suffers when it alone is quantised.

    `sqnr` is its output's signal to quantisation noise in decibel, an estimate from calibration;
    `answers` is that of the model's answers, measured where layers to keep were looked for. They
    are None where there is no noise, and -100 at least, which also stands for answers that are no
    numbers. `kept` says that it was to be quantised, and is not for the answers' sake.
    """

    name: str
    kind: str
    precision: str
    sqnr: float | None
    kept: bool
    answers: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Choice:
    """What was measured with some layers in higher precision, `kept` by their places.

    `precision` is what they compute in. `value` and `drop` are the metric and how much of it is
    lost, None where that is no finite number; `bytes` is the size of the weights, `ms` the time of
    a run on a batch of the data.
    """

    kept: tuple[int, ...]
    precision: str
    value: float | None
    drop: float | None
    bytes: int
    ms: float


@dataclass(frozen=True)
class AccuracyReport:
    """An accuracy check of a model, measured on `device`.

    `max_drop` is None where every drop was accepted, `baseline` the metric of float32, None where
    that is infinite. `choices` are in the order in which they were measured; the model is the one
    at place `chosen`, or there is none that keeps the answers. Raises BadBundle for places that are
    not there.
    """

    model: str
    recipe: str
    metric: str
    max_drop: float | None
    baseline: float | None
    batches: int
    device: str
    threads: int
    float32_bytes: int
    float32_ms: float
    layers: tuple[LayerReport, ...]
    choices: tuple[Choice, ...]
    chosen: int | None

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise BadBundle(problem)

    def _problems(self) -> Iterator[str]:
        if self.chosen is not None and not 0 <= self.chosen < len(self.choices):
            yield f"its accuracy report chooses {self.chosen} of {len(self.choices)} choices"
        for choice in self.choices:
            if any(not 0 <= place < len(self.layers) for place in choice.kept):
                yield "its accuracy report keeps a layer that is not there"

    @property
    def choice(self) -> Choice | None:
        """What the model is."""
        return None if self.chosen is None else self.choices[self.chosen]

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the layers that are in higher precision for the answers' sake."""
        return tuple(layer.name for layer in self.layers if layer.kept)

    @property
    def sensitive_first(self) -> list[LayerReport]:
        """The layers, first the one that costs the answers most, or else that suffers most."""
        return sorted(
            self.layers,
            key=lambda layer: tuple(
                math.inf if each is None else each for each in (layer.answers, layer.sqnr)
            ),
        )

    @property
    def looked_for(self) -> bool:
        """Whether it was measured what each layer takes from the answers."""
        return any(layer.answers is not None for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, as `--json` prints it."""
        return asdict(self)

    def save_html(self, path: str | Path) -> None:
        """Write the report as one page with pictures, which needs no network.

        Raises MissingPackage without matplotlib.
        """
        from pocketformer.compiler.quantization.page import write_page

        write_page(self, Path(path))
