"""An accuracy check at work: the batches, float32's answers to them, and those of other models."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketformer.compiler.arrays import Arrays, read_arrays, write_arrays
from pocketformer.compiler.errors import BadMetric
from pocketformer.compiler.model import Model
from pocketformer.compiler.progress import Progress, silent
from pocketformer.compiler.quantization.accuracy import Accuracy, Run
from pocketformer.compiler.quantization.answers import (
    answer_shape,
    check_mask_name,
    counted_of,
    first_line,
    labels_of,
    output_of,
    rows_of,
)
from pocketformer.compiler.quantization.data import batches_of
from pocketformer.compiler.quantization.metrics import METRICS, Answers, Metric
from pocketformer.compiler.quantization.padding import check_mask, mask_of


@dataclass(frozen=True)
class Measured:
    """A metric's number, and how far it is below float32's."""

    value: float
    drop: float


class Batches:
    """Batches in files of a folder, to be read any number of times, one at a time."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = folder, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Arrays]:
        for number in range(self._count):
            yield read_arrays(self._folder / f"{number}.npz")


class Evaluation:
    """Holds what a model answers to the batches of `accuracy` against float32's answers.

    Batches and answers lie in files until the end of a `with` block, so that the memory for them
    does not depend on how many they are. Raises BadInput for data that does not fit the model, and
    BadMetric for an output, a mask or labels that do not, for a batch that is nothing but padding,
    and a metric that raises or gives no number.
    """

    def __init__(self, accuracy: Accuracy, model: Model) -> None:
        self.accuracy, self.baseline = accuracy, math.nan
        self._output = "" if callable(accuracy.metric) else output_of(accuracy, model)
        self._labels = labels_of(accuracy)
        check_mask_name(accuracy, model)
        self._files = tempfile.TemporaryDirectory(prefix="pocketformer-accuracy-")
        self._folder = Path(self._files.name)
        shapes: list[tuple[int, ...] | None] = []
        try:
            for count, batch in enumerate(batches_of(accuracy.data, model)):
                check_mask(batch, count + 1, BadMetric, accuracy.mask)
                write_arrays(self._folder / f"{count}.npz", batch)
                shapes.append(answer_shape(model, self._output, batch))
            self._check_items(shapes)
        except BaseException:
            self._files.cleanup()
            raise
        self.batches = Batches(self._folder, len(shapes))

    def __enter__(self) -> Evaluation:
        return self

    def __exit__(self, *raised: object) -> None:
        self._files.cleanup()

    def answer(self, run: Run, tell: Progress) -> None:
        """Keeps what float32 answers, by `run`, and measures its metric: `baseline`."""
        if callable(self.accuracy.metric):
            self.baseline = self._ask(run)
            return
        for number, batch in enumerate(self.batches):
            tell("evaluate float32", number / len(self.batches))
            answer = rows_of(run(batch)[self._output])
            if not np.isfinite(answer).all():
                raise BadMetric(
                    f"the output {self._output} of float32 is not finite for batch {number + 1}"
                )
            np.save(self._folder / f"answer-{number}.npy", answer)
        metric = self._compare(None, silent)
        if math.isnan(metric.value()):
            raise self._undefined()
        self.baseline = metric.baseline()

    def measure(self, run: Run, tell: Progress) -> Measured:
        """The metric of the model that `run` runs; a drop of infinity for what is no number."""
        if callable(self.accuracy.metric):
            value = self._ask(run)
            return Measured(value, self.baseline - value)
        metric = self._compare(run, tell)
        drop = metric.drop()
        return Measured(metric.value(), math.inf if math.isnan(drop) else drop)

    def _undefined(self) -> BadMetric:
        return BadMetric(
            f"{self.accuracy.metric_name} is not defined on this data"
            + ": it needs three items or more that differ" * (self.accuracy.metric == "spearman")
        )

    def _check_items(self, shapes: Sequence[tuple[int, ...] | None]) -> None:
        """Raises BadMetric, before the work, where labels or the number of items do not fit.

        `shapes` are those of the answers to each batch, None where only a run tells.
        """
        items = 0
        for shape in shapes:
            if shape is None:
                return
            if self._labels is not None:
                self._labels_of(items, shape)
            items += shape[0]
        self._check_count(items)
        if self.accuracy.metric == "spearman" and items < 3:
            raise self._undefined()

    def _check_count(self, items: int) -> None:
        if self._labels is not None and items != len(self._labels):
            raise BadMetric(f"there are {len(self._labels)} labels for {items} items of the data")

    def _ask(self, run: Run) -> float:
        """What the user's function says."""
        name = self.accuracy.metric_name
        assert callable(self.accuracy.metric)
        try:
            value = self.accuracy.metric(run, self.batches)
        except Exception as error:
            raise BadMetric(
                f"the metric {name} raised {type(error).__name__}: {first_line(error)}".rstrip(": ")
            ) from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise BadMetric(
                f"the metric {name} returned {type(value).__name__}, not a number"
            ) from None
        if not math.isfinite(number):
            raise BadMetric(f"the metric {name} returned {number}")
        return number

    def _compare(self, run: Run | None, tell: Progress) -> Metric:
        """The metric of all batches; without `run`, of float32 with itself."""
        assert isinstance(self.accuracy.metric, str)
        metric, items = METRICS[self.accuracy.metric](), 0
        for number, batch in enumerate(self.batches):
            tell("evaluate", number / len(self.batches))
            expected = np.load(self._folder / f"answer-{number}.npy")
            found = expected if run is None else rows_of(run(batch)[self._output])
            labels = None
            if self._labels is not None:
                labels = self._labels_of(items, expected.shape)
            items += len(expected)
            counted = counted_of(mask_of(batch, self.accuracy.mask), expected.shape)
            metric.update(Answers(expected, found, counted, labels))
        self._check_count(items)
        return metric

    def _labels_of(self, start: int, shape: tuple[int, ...]) -> np.ndarray:
        """int64 [items, rows] of the batch that begins at item `start`."""
        assert self._labels is not None
        items, rows, classes = shape
        labels = self._labels[start : start + items]
        if labels.size != items * rows:
            raise BadMetric(
                f"a batch has {items * rows} rows from item {start} on, and {labels.size} labels"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise BadMetric(
                f"labels are from 0 to {classes - 1}, the classes of {self._output}; "
                f"there is {labels.min() if labels.min() < 0 else labels.max()}"
            )
        return labels.reshape(items, rows)
