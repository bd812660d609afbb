"""Bundle: a folder of model.so, weights.safetensors and manifest.json; save, load, verify."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pocketformer.compiler import manifest as layout
from pocketformer.compiler.checksum import FileRecord, HashedFile, check_chunks, check_whole
from pocketformer.compiler.compatibility import refuse_machine
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.manifest import Manifest
from pocketformer.compiler.manifest_records import WeightsRecord
from pocketformer.compiler.replace import check_writable, replacing_folder
from pocketformer.compiler.weights import read_weights, write_weights

_PIECE = 1 << 20        # bytes copied at a time


@dataclass(frozen=True, eq=False)
class Bundle:
    """A compiled model: a TVM library, the weights that it reads, and what is known about both.

    `library` is the path of the `.so`. `weights` are numpy arrays by name, which map the file
    without a copy once the bundle is loaded; it is empty where the library holds the weights.
    `path` is the bundle's folder, or None before it is saved.
    """

    manifest: Manifest
    library: Path
    weights: Mapping[str, np.ndarray]
    path: Path | None = None

    @classmethod
    def create(
        cls, library: Path | bytes, weights: Mapping[str, np.ndarray], manifest: Manifest
    ) -> Bundle:
        """A bundle of a library, given as a path (which is copied) or its bytes, and its weights.

        `weights` is empty where the library holds them. The manifest's `weights` and `files` are
        filled in. Raises BadBundle where an entry takes a weight that is not there.
        """
        record = None
        if weights:
            size = sum(array.nbytes for array in weights.values())
            record = WeightsRecord(layout.WEIGHTS, len(weights), size)
        manifest = replace(manifest, weights=record, files={})
        _check_entries(manifest, weights)
        folder = tempfile.mkdtemp(prefix="pocketformer-")
        inside = Path(folder) / layout.LIBRARY
        bundle = cls(manifest, inside, dict(weights))
        weakref.finalize(bundle, shutil.rmtree, folder, ignore_errors=True)
        if isinstance(library, bytes):
            inside.write_bytes(library)
        else:
            shutil.copyfile(library, inside)
        return bundle

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bundle as the folder `path`; a bundle that is there is replaced at once.

        An interrupted save, or one for which the disk is too small, leaves the old bundle whole.
        Raises BadBundle if `path` is something else than a bundle or cannot be written.
        """
        place = Path(os.path.realpath(path))
        try:
            check_replaceable(place)
            with replacing_folder(place) as folder:
                self._write(folder)
        except OSError as error:
            kept = "; the bundle that was there is unchanged" if place.exists() else ""
            raise BadBundle(f"cannot write the bundle {path}: {error.strerror}{kept}") from error

    def _write(self, folder: Path) -> None:
        files = {}
        with (folder / layout.LIBRARY).open("wb") as file, self.library.open("rb") as source:
            hashed = HashedFile(file)
            while piece := source.read(_PIECE):
                hashed.write(piece)
            files[layout.LIBRARY] = hashed.record()
        if self.weights:
            with (folder / layout.WEIGHTS).open("wb") as file:
                hashed = HashedFile(file)
                write_weights(hashed, self.weights)
                files[layout.WEIGHTS] = hashed.record()
        record = self.manifest.weights and replace(self.manifest.weights, file=layout.WEIGHTS)
        manifest = replace(self.manifest, weights=record, files=files)
        (folder / layout.FILE).write_bytes(manifest.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, check_machine: bool = True) -> Bundle:
        """The bundle in the folder `path`, its files compared with their checksums.

        `check_machine=False` loads, for a look inside, one that this machine or the installed TVM
        cannot run. Nothing of the library is executed. Raises BadBundle that says what is wrong.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        if check_machine:
            refuse_machine(manifest)
        contents = {name: _map(folder / name, record) for name, record in manifest.files.items()}
        check_chunks({name: data.data for name, data in contents.items()}, manifest.files)
        weights = {}
        if manifest.weights:
            weights = read_weights(contents[manifest.weights.file], manifest.weights.file)
        _check_entries(manifest, weights)
        return cls(manifest, folder / layout.LIBRARY, weights, folder)

    def verify(self) -> None:
        """Read the saved files again and compare all checksums, those of whole files as well.

        Raises BadBundle that says which file was changed.
        """
        if self.path is None:
            raise BadBundle("the bundle has no checksums before it is saved")
        fresh = Bundle.load(self.path, check_machine=False)
        for name, record in fresh.manifest.files.items():
            check_whole(name, _map(self.path / name, record).data, record)
        if fresh.manifest != self.manifest:
            raise BadBundle(f"{self.path} now holds another bundle than the one that was loaded")

    @property
    def bytes(self) -> int:
        """The size of the library and the weights, in bytes."""
        return self.library.stat().st_size + sum(array.nbytes for array in self.weights.values())


def _check_entries(manifest: Manifest, weights: Mapping[str, np.ndarray]) -> None:
    if manifest.weights and manifest.weights.count != len(weights):
        raise BadBundle(f"there are {len(weights)} weights, not {manifest.weights.count}")
    for entry in manifest.entries:
        for name in entry.weights:
            if name not in weights:
                raise BadBundle(f"the entry {entry.function!r} needs the weight {name!r}, "
                                "which the bundle lacks")


def check_replaceable(place: Path) -> None:
    """Raise BadBundle if a bundle cannot be saved at `place`, or must not take the place of what
    it holds.
    """
    try:
        check_writable(place.absolute().parent)
    except OSError as error:
        raise BadBundle(f"{place} cannot be written: {error.strerror}") from None
    if not place.exists():
        return
    ours = {layout.FILE, layout.LIBRARY, layout.WEIGHTS}
    if not place.is_dir() or not {entry.name for entry in place.iterdir()} <= ours:
        raise BadBundle(f"{place} exists and is no bundle; choose another name or remove it")


def _read_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        what = "is a file, not the folder of a bundle" if folder.exists() else "does not exist"
        raise BadBundle(f"{folder} {what}")
    file = folder / layout.FILE
    if not file.exists():
        raise BadBundle(f"{folder} is no bundle: it has no {layout.FILE}")
    with _open(file) as opened:
        manifest = Manifest.from_json(opened.read(layout.LARGEST + 1), str(file))
    if not manifest.files:
        raise BadBundle(f"{file} lists no files")
    return manifest


def _map(file: Path, record: FileRecord) -> np.ndarray:
    """The bytes of `file`, mapped: read when touched, and private if written to."""
    with _open(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size != record.bytes:
            fault = "is truncated" if size < record.bytes else "is too long"
            raise BadBundle(f"{file} {fault}: {size} bytes, not {record.bytes}")
        if not size:
            return np.empty(0, np.uint8)
        # Private and writable, because DLPack hands out nothing that is read-only.
        return np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)


def _open(file: Path) -> BinaryIO:
    """Open a regular file, and nothing that a link leads to or that would block."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadBundle(f"{file} is missing") from None
    except OSError as error:
        what = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise BadBundle(f"cannot read {file}: {what}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadBundle(f"cannot read {file}: it is no regular file")
    return os.fdopen(handle, "rb")
