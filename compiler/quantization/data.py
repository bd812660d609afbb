"""Batches of a model's inputs: from memory, from files, or from texts."""

from __future__ import annotations

import itertools
import logging
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pocketformer.compiler.arrays import Arrays, read_arrays
from pocketformer.compiler.errors import BadInput
from pocketformer.compiler.model import Model
from pocketformer.compiler.quantization.texts import Texts
from pocketformer.compiler.signature import Inputs

ROWS = 8    # of a batch that is run at once: as many keep the cores busy, and memory is bounded
# What reading a file raises that is truncated, of objects, encrypted, packed in a way that Python
# does not know, or that claims more than the memory holds.
UNREADABLE = (
    ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)
MANY = 1024     # rows run at once may take more memory than there is
LOG = logging.getLogger("pocketformer.calibration")
KINDS = (
    "batches are dicts of arrays by input name, the path of an .npz file or of a folder of them, "
    "or texts: a list of them or the path of a .txt file"
)


class _Named(dict[str, np.ndarray]):
    """Arrays, and the file that they come from."""

    def __init__(self, file: Path, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.file = file


def batches_of(data: Any, model: Model) -> Iterator[Arrays]:
    """The batches that `data` holds, each checked against the model's inputs, one at a time.

    `data` is an iterable of dicts of arrays by input name or of paths of .npz files, the path of
    such a file or of a folder of them, or texts (a list, or the path of a .txt file with one a
    line) for a model from a folder with a tokenizer. A text is a batch of its own where the model's
    sizes allow it. What has more rows than the model takes, or than ROWS, comes in several batches.
    Raises BadInput that says what does not fit.
    """
    signature = Inputs(model.inputs, model.dims)
    items = _items(data)
    first = next(items, None)
    if first is None:
        raise BadInput("the data has no batch (an iterator gives its batches only once)")
    items = itertools.chain([first], items)
    batches = Texts(model).batches(items) if isinstance(first, str) else items
    for number, batch in enumerate(batches, 1):
        where = f" ({batch.file})" if isinstance(batch, _Named) else ""
        if not isinstance(batch, Mapping):
            raise BadInput(f"batch {number} of the data is of type {type(batch).__name__}; {KINDS}")
        try:
            arrays = dict(zip(signature.names, signature.arrays(batch), strict=True))
            _check_numbers(arrays)
            for part in _split(arrays, model):
                signature.sizes(tuple(array.shape for array in part.values()))
                yield part
        except BadInput as error:
            raise BadInput(f"batch {number} of the data{where}: {error}") from None


def count_of(data: Any) -> int | None:
    """How many batches `data` tells that it has, before they are split."""
    if isinstance(data, (str, os.PathLike, Mapping)):
        return None
    return len(data) if hasattr(data, "__len__") else None


def _items(data: Any) -> Iterator[Any]:
    """Batches, or texts."""
    if isinstance(data, (str, os.PathLike)):
        return _read(Path(data))
    if isinstance(data, Mapping):
        return iter([data])
    if isinstance(data, Iterable) and not isinstance(data, (bytes, np.ndarray)):
        return map(_item, data)
    raise BadInput(f"data is of type {type(data).__name__}; {KINDS}")


def _item(item: Any) -> Any:
    """An item of an iterable; the path of an .npz file stands for what the file holds."""
    if not isinstance(item, (str, os.PathLike)):
        return item
    path = os.fspath(item)
    if str(path).lower().endswith(".npz"):
        return _arrays(Path(path))
    if isinstance(item, os.PathLike) or (path.lower().endswith(".txt") and os.path.isfile(path)):
        raise BadInput(f"the data has the path {path}; only .npz files come as a list of paths")
    return item


def _read(path: Path) -> Iterator[Any]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".npz")
        if not files:
            raise BadInput(f"the folder {path} holds no .npz file")
        return map(_arrays, files)
    if not path.is_file():
        raise BadInput(f"there is no file or folder {path}")
    if path.suffix.lower() == ".npz":
        return iter([_arrays(path)])
    if path.suffix.lower() == ".txt":
        return _lines(path)
    raise BadInput(f"{path} is neither an .npz file, nor a folder of them, nor a .txt file")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    yield line.strip()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8") from None


def _arrays(path: Path) -> Arrays:
    try:
        if zipfile.is_zipfile(path):
            return _Named(path, read_arrays(path))
    except UNREADABLE:
        pass
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if not path.exists():
        raise BadInput(f"there is no file {path}")
    raise BadInput(f"{path} is no .npz file of numbers")


def _check_numbers(arrays: Arrays) -> None:
    """Raises BadInput for NaN; infinity may stand in a mask that is added to scores."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biu" and np.isnan(array).any():
            raise BadInput(f"{name} has NaN")


def _split(arrays: Arrays, model: Model) -> Iterator[Arrays]:
    """`arrays` in pieces of as many rows as the model takes, of ROWS where it takes any number."""
    rows = {len(array) if array.ndim else 0 for array in arrays.values()}
    taken = {spec.shape[0] if spec.shape else 0 for spec in model.inputs}
    if len(rows) != 1 or len(taken) != 1:
        yield arrays
        return
    (count,), (axis,) = rows, taken
    size = axis if isinstance(axis, int) else _size(axis, model)
    if not size and count > MANY:
        LOG.warning(
            "a batch has %d rows, and %s is not known to be a batch axis by its name: they run at "
            "once; give batches of a few rows each if memory runs short", count, axis,
        )
    if not size or count <= size or (isinstance(axis, int) and count % size):
        yield arrays
        return
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in arrays.items()}


def _size(axis: str, model: Model) -> int:
    """How many rows to take of a symbolic first axis; 0 for all, where it may be no batch."""
    dim = model.dims.get(axis)
    if dim is None or dim.low > 1 or "batch" not in axis.lower():
        return 0
    return min(ROWS, dim.high or ROWS)
