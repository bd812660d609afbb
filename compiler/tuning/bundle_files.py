"""A bundle as one string of bytes, for the way from the process that builds it to a device."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.manifest import FILE, LIBRARY


def pack(bundle: Bundle) -> bytes:
    """The files of `bundle`, which has no weights, as an uncompressed tar."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "bundle"
        bundle.save(folder)
        result = io.BytesIO()
        with tarfile.open(fileobj=result, mode="w") as tar:
            for name in (FILE, LIBRARY):
                tar.add(folder / name, arcname=name)
        return result.getvalue()


def unpack(data: bytes, folder: Path) -> Bundle:
    """The bundle that `pack` was given; its files are written to `folder`.

    Raises BadBundle for bytes that hold none, or one for another machine than this one or a device.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for name in (FILE, LIBRARY):
                source = tar.extractfile(name)
                if source is None:
                    raise KeyError(name)
                (folder / name).write_bytes(source.read())
    except (tarfile.TarError, KeyError) as error:
        raise BadBundle(f"what a builder sent holds no bundle: {error}") from None
    return Bundle.load(folder, check_machine=False)
