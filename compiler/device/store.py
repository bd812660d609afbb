"""Files on a device, by checksum: what it has already is not sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.checksum import FileRecord
from pocketformer.compiler.device.connection import Connection
from pocketformer.compiler.errors import BadBundle, DeviceFailed
from pocketformer.compiler.progress import Progress

PIECE = 1 << 20         # bytes in one message


def upload_bundle(
    connection: Connection, bundle: Bundle, progress: Progress | None = None
) -> int:
    """Send those files of the saved `bundle` that the device lacks; returns their bytes.

    Raises DeviceFailed where the device cannot store them, BadBundle for a file that was changed
    since the bundle was loaded.
    """
    assert bundle.path is not None, "a bundle has files once it is saved"
    missing = {
        name: record
        for name, record in bundle.manifest.files.items()
        if not connection.call("pocketformer.device.stored", record.sha256, record.bytes)
    }
    total, done = sum(record.bytes for record in missing.values()), 0
    for name, record in missing.items():

        def tell(bytes_sent: int, before: int = done, name: str = name) -> None:
            if progress:
                step = f"uploading {name} to {connection.info.key}"
                progress(step, (before + bytes_sent) / max(total, 1))

        upload(connection, bundle.path / name, record, tell)
        done += record.bytes
    return total


def upload(
    connection: Connection, file: Path, record: FileRecord, tell: Callable[[int], None]
) -> None:
    """Send `file`, whose size and checksum `record` has; calls `tell` with the bytes sent so far.

    Raises as `upload_bundle` does.
    """
    connection.call("pocketformer.device.begin", record.sha256, record.bytes)
    sent = 0
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            tell(sent)
            connection.call("pocketformer.device.append", record.sha256, piece)
            sent += len(piece)
    try:
        connection.call("pocketformer.device.commit", record.sha256)
    except DeviceFailed:
        if sent != record.bytes or _sha256(file) != record.sha256:
            raise BadBundle(f"{file} was changed after the bundle was loaded") from None
        raise


def _sha256(file: Path) -> str:
    taken = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            taken.update(piece)
    return taken.hexdigest()
