"""What an accuracy check looks at: an output, its rows, labels, and which rows count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from pocketformer.compiler.arrays import Arrays
from pocketformer.compiler.axes import evaluate
from pocketformer.compiler.errors import BadDim, BadMetric
from pocketformer.compiler.model import Model
from pocketformer.compiler.quantization.accuracy import Accuracy
from pocketformer.compiler.quantization.data import UNREADABLE
from pocketformer.compiler.signature import Inputs

FLOATS = ("float32", "float16", "bfloat16", "float64")


def output_of(accuracy: Accuracy, model: Model) -> str:
    """The name of the output to look at."""
    names = [spec.name for spec in model.outputs]
    floats = [spec.name for spec in model.outputs if spec.dtype in FLOATS]
    if accuracy.output is None and floats:
        return floats[0]
    if accuracy.output is None:
        raise BadMetric(f"no output of the model is of floating point: {', '.join(names)}")
    if accuracy.output not in names:
        raise BadMetric(_no_such("output", accuracy.output, names))
    if accuracy.output not in floats:
        raise BadMetric(f"the output {accuracy.output} is not of floating point")
    return accuracy.output


def check_mask_name(accuracy: Accuracy, model: Model) -> None:
    """Raises BadMetric where the mask that `accuracy` names is no input of the model with an item
    and a token axis. No name, or an empty one, is right."""
    if not accuracy.mask:
        return
    ranks = {spec.name: len(spec.shape) for spec in model.inputs}
    if accuracy.mask not in ranks:
        raise BadMetric(_no_such("input", accuracy.mask, list(ranks)))
    if ranks[accuracy.mask] != 2:
        raise BadMetric(
            f"the mask {accuracy.mask} has rank {ranks[accuracy.mask]}, it must have 2: a number "
            "for each token of each item"
        )


def _no_such(what: str, name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1)
    hint = f", did you mean {near[0]!r}" if near else ""
    return f"the model has no {what} {name!r}{hint}; it has {', '.join(names)}"


def outputs_of(accuracy: Accuracy, model: Model) -> tuple[str, ...]:
    """The names of the outputs in which noise is looked for: of a function's metric all of floating
    point, or all where there are none."""
    if not callable(accuracy.metric):
        return (output_of(accuracy, model),)
    floats = tuple(spec.name for spec in model.outputs if spec.dtype in FLOATS)
    return floats or tuple(spec.name for spec in model.outputs)


def labels_of(accuracy: Accuracy) -> np.ndarray | None:
    """int64 [items] or [items, rows]."""
    given = accuracy.labels
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        try:
            given = np.load(given, allow_pickle=False)
        except UNREADABLE as error:
            raise BadMetric(
                f"cannot read the labels in {accuracy.labels}: {first_line(error)}"
            ) from None
        if not isinstance(given, np.ndarray):
            given.close()
            raise BadMetric(f"the labels in {accuracy.labels} are no single array: give an .npy")
    labels = np.asarray(given)
    if labels.dtype.kind not in "iu" or labels.ndim < 1:
        raise BadMetric(f"labels are {labels.dtype} numbers of rank {labels.ndim}, not integers")
    return labels.astype(np.int64)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def answer_shape(model: Model, output: str, batch: Arrays) -> tuple[int, ...] | None:
    """[items, rows, n] of what the model answers to `batch`, None where only a run tells."""
    spec = next((each for each in model.outputs if each.name == output), None)
    if spec is None:
        return None
    given = tuple(batch[each.name].shape for each in model.inputs)
    sizes = Inputs(model.inputs, model.dims).sizes(given)
    try:
        shape = [each if isinstance(each, int) else evaluate(each, sizes) for each in spec.shape]
    except BadDim:
        return None
    return _in_rows(shape)


def _in_rows(shape: Sequence[int]) -> tuple[int, int, int]:
    """[items, rows, n] for an answer of `shape`; one with a single axis is one item's."""
    if len(shape) < 2:
        return 1, 1, math.prod(shape)
    return shape[0], math.prod(shape[1:-1]), shape[-1]


def rows_of(answer: np.ndarray) -> np.ndarray:
    """float32 [items, rows, n]."""
    return answer.astype(np.float32).reshape(_in_rows(answer.shape))


def counted_of(mask: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Which rows of answers of `shape` count: all, unless `mask`, bool, is one of them."""
    if mask is None or mask.shape != shape[:2]:
        return np.ones(shape[:2], bool)
    return mask
