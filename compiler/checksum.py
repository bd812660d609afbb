"""Checksums of a bundle's files: taken while writing, compared by several threads while loading."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from pocketformer.compiler.errors import BadBundle
from pocketformer.compiler.machine import cpus

CHUNK = 8 << 20     # bytes under one checksum: few enough that all cores can share the work
_SHA256 = re.compile(r"[0-9a-f]{64}")
_THREADS = 4        # more gain little: by then the memory is the limit


@dataclass(frozen=True)
class FileRecord:
    """A file's size and sha256; `chunks` are those of each CHUNK bytes, which cores can share."""

    bytes: int
    sha256: str
    chunks: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.bytes < 0 or len(self.chunks) != -(-self.bytes // CHUNK):
            raise BadBundle(f"{len(self.chunks)} checksums do not go with {self.bytes} bytes")
        if not all(map(_SHA256.fullmatch, (self.sha256, *self.chunks))):
            raise BadBundle("a sha256 is not 64 hexadecimal digits")


class HashedFile:
    """Writes to a file and takes its checksums on the way; `record` has them at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._chunks: list[str] = []
        self._bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            piece = view[: CHUNK - self._bytes % CHUNK]
            self._file.write(piece)
            self._whole.update(piece)
            self._chunk.update(piece)
            self._bytes += len(piece)
            if self._bytes % CHUNK == 0:
                self._end_chunk()
            view = view[len(piece) :]

    def record(self) -> FileRecord:
        if self._bytes % CHUNK:
            self._end_chunk()
        return FileRecord(self._bytes, self._whole.hexdigest(), tuple(self._chunks))

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.hexdigest())
        self._chunk = hashlib.sha256()


def check_chunks(contents: Mapping[str, memoryview], records: Mapping[str, FileRecord]) -> None:
    """Compare every chunk of `contents` with its record, on up to four threads.

    Raises BadBundle that names the file whose bytes were changed.
    """
    jobs = [(name, i) for name in contents for i in range(len(records[name].chunks))]
    pending, changed = iter(jobs), []

    def work() -> None:
        for name, i in pending:         # a list's iterator hands each job out once
            chunk = contents[name][i * CHUNK : (i + 1) * CHUNK]
            if hashlib.sha256(chunk).hexdigest() != records[name].chunks[i]:
                changed.append(name)

    threads = min(_THREADS, len(cpus()), len(jobs))
    helpers = [threading.Thread(target=work) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if changed:
        raise _was_changed(changed[0])


def check_whole(name: str, content: memoryview, record: FileRecord) -> None:
    """Compare the checksum of a whole file. Raises BadBundle."""
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise _was_changed(name)


def _was_changed(name: str) -> BadBundle:
    return BadBundle(f"{name} was changed: its bytes do not match the checksum in the manifest")
