"""Accuracy: how far the answers of a compiled model may be from those of float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.errors import BadMetric
from pocketformer.compiler.quantization.metrics import METRICS

Run: TypeAlias = Callable[[Arrays], Arrays]    # outputs by name for inputs by name
UserMetric: TypeAlias = Callable[[Run, Iterable[Arrays]], float]


@dataclass(frozen=True)
class Accuracy:
    """The answers of a model may lose at most `max_drop` of `metric` on `data`, against float32.

    `metric` is one of these, or a function `metric(run, batches)` that returns a number, the
    larger the better; `run(batch)` gives the outputs by name. Its drop is its number for float32
    minus that of the compiled model.

    - cosine: the mean cosine of float32's rows (along the last axis) and the model's; it drops
      from 1.
    - top1, top5: the share of rows whose largest value in float32 is among the model's 1 or 5
      largest, which drops from 1. With `labels`, the share of rows whose label is among them, in
      float32 and in the model.
    - spearman: of each item's vector (the mean of its rows) the cosines with all others, and the
      rank correlation of these in float32 and the model; it drops from 1. Of more than 1024 items
      the first count.
    - sqnr: signal to quantisation noise, in decibel; here the drop is the noise's power as a part
      of the signal's, so that 0.01 stands for 20 dB.

    `data` are batches as for Int8's calibration, and should be others. `labels` are one an item,
    or one a row where each item has several: an array, or the path of an .npy file. `output` is
    the output to look at, the first of floating point if None. Rows for which the input `mask` is
    0 count nothing; without a name that is one which calibration takes for a mask, attention_mask
    or input_mask, if there is one, and with an empty name all rows count.

    At most `trials` choices of the layers to keep in higher precision are compiled and measured.
    A `max_drop` of infinity measures and accepts everything.
    """

    max_drop: float = 0.01
    metric: str | UserMetric = "cosine"
    data: Any = field(default=None, compare=False, repr=False)
    labels: Any = field(default=None, compare=False, repr=False)
    output: str | None = None
    mask: str | None = None
    trials: int = 40

    def __post_init__(self) -> None:
        if not isinstance(self.max_drop, (int, float)) or not self.max_drop >= 0:
            raise BadMetric(f"max_drop is {self.max_drop!r}, it must be a number from 0 on")
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise BadMetric(
                f"no metric {self.metric!r}; one of {', '.join(METRICS)}, or a function"
            )
        if not isinstance(self.metric, str) and not callable(self.metric):
            raise BadMetric(f"the metric is of type {type(self.metric).__name__}, not a function")
        if self.labels is not None and self.metric not in ("top1", "top5"):
            raise BadMetric("labels are for the metrics top1 and top5")
        if type(self.trials) is not int or self.trials < 1:
            raise BadMetric(f"trials is {self.trials!r}, it must be a whole number from 1 on")
        if self.data is None:
            raise BadMetric("an Accuracy needs data: batches that calibration does not see")

    @property
    def metric_name(self) -> str:
        """The metric's name, or its function's."""
        if isinstance(self.metric, str):
            return self.metric
        return getattr(self.metric, "__name__", type(self.metric).__name__)

    @property
    def measures_only(self) -> bool:
        """Whether every drop is accepted."""
        return math.isinf(self.max_drop)
