"""A file of records: lines are only ever added, whole or not at all, by one process at a time.

What a line that was torn off by a crash had to say is lost; nothing else is. Lines that are no
records of this version stay where they are, for the version that understands them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pocketformer.compiler.decode import parse_object
from pocketformer.compiler.errors import BadBundle, BadRecords
from pocketformer.compiler.tuning.ranking import best_of_each, one_failure_each
from pocketformer.compiler.tuning.record import Record, decode_record, encode_record

LONGEST = 1 << 16          # bytes of a line


@dataclass(frozen=True)
class Line:
    """A line of a file that is not empty: a record, or the reason why it is none.

    `text` is empty where it is no JSON object that a version could understand.
    """

    file: str
    number: int
    text: str
    record: Record | None
    reason: str = ""


def read_lines(path: str | Path) -> Iterator[Line]:
    """The lines of the file at `path`. Raises BadRecords where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(_raw_lines(file), 1):
                if line is None or line.strip():
                    yield _line(str(path), number, line)
    except OSError as error:
        raise BadRecords(f"records {path} cannot be read: {error.strerror}") from None


class RecordFile:
    """Adds records to the file at `path`, which is made with the first."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, records: Iterable[Record]) -> None:
        """Add `records`, which are on the disk when this returns.

        Raises OSError, and adds none of them, where the disk is full or not to be written;
        BadRecords where the file holds something else.
        """
        lines = [encode_record(record).encode() + b"\n" for record in records]
        if (longest := max(map(len, lines), default=0)) > LONGEST:
            raise BadRecords(f"a record takes {longest} bytes, a line holds {LONGEST}")
        with self._locked() as file:
            end, before = _end(file, self.path)
            os.ftruncate(file, end)
            try:
                _write(file, before + b"".join(lines))
            except BaseException as error:          # such as Ctrl-C
                os.ftruncate(file, end)
                if isinstance(error, OSError):
                    raise OSError(error.errno, error.strerror, str(self.path)) from None
                raise
            if not end:
                _keep_name(self.path)

    def rewrite(self, change: Callable[[list[Line]], Iterable[str]]) -> None:
        """Replace the lines by those that `change` makes of them, all at once.

        Raises OSError or BadRecords, and leaves the file as it was.
        """
        with self._locked() as file:
            before = list(read_lines(self.path))
            if before and not before[0].text:
                raise BadRecords(f"{self.path} is no file of records, it was left as it is")
            lines = "".join(f"{text}\n" for text in change(before))
            place = Path(os.path.realpath(self.path))
            unfinished = place.with_name(f"{place.name}.tmp-{secrets.token_hex(4)}")
            new = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.fchmod(new, stat.S_IMODE(os.fstat(file).st_mode))
                _write(new, lines.encode())
                unfinished.replace(place)
                _keep_name(place)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from None
            finally:
                os.close(new)
                unfinished.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file, which no other process adds to or replaces meanwhile."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)    # the kernel lets go of it even if we are killed
                opened = os.fstat(file)
                if not stat.S_ISREG(opened.st_mode):
                    raise BadRecords(f"records are kept in files, {self.path} is none")
                if _is_at(opened, self.path):
                    yield file
                    return
            finally:
                os.close(file)                      # replaced while we waited: take the new one


def merge(lines: Iterable[Line]) -> list[str]:
    """What `lines` say, each once, in the order in which it first comes."""
    said: dict[str, str] = {}
    for line in lines:
        if line.text:
            said.setdefault(encode_record(line.record) if line.record else line.text, line.text)
    return list(said.values())


def prune(lines: Iterable[Line], keep: int) -> list[str]:
    """The best `keep` points of each task, those that failed, and lines of other versions.

    They stay in their order.
    """
    lines = list(lines)
    records = [line.record for line in lines if line.record]
    kept = set(map(id, [*best_of_each(records, keep), *one_failure_each(records)]))
    return [
        line.text for line in lines if line.text and (not line.record or id(line.record) in kept)
    ]


def _raw_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines with their ends, None for one that is too long."""
    while line := file.readline(LONGEST + 1):
        if len(line) <= LONGEST:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST)
        yield None


def _line(file: str, number: int, line: bytes | None) -> Line:
    if line is None:
        return Line(file, number, "", None, f"it is longer than {LONGEST} bytes")
    try:
        text = line.decode().strip()
        return Line(file, number, text, decode_record(text, "the record"))
    except UnicodeDecodeError:
        return Line(file, number, "", None, "it is no text")
    except BadRecords as error:
        if _is_object(text):
            return Line(file, number, text, None, _short(str(error)))
        torn = not line.endswith(b"\n")
        return Line(file, number, "", None, "its end is missing" if torn else _short(str(error)))


def _short(text: str) -> str:
    """It may quote a whole line."""
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_object(text: str) -> bool:
    try:
        return bool(parse_object(text, ""))
    except BadBundle:
        return False


def _is_at(opened: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(opened, path.stat())
    except FileNotFoundError:
        return False


def _end(file: int, path: Path) -> tuple[int, bytes]:
    """Where the last whole line ends, and what must be written there before the next one."""
    size = os.fstat(file).st_size
    tail = os.pread(file, LONGEST, max(0, size - LONGEST))
    tail = tail[tail.rfind(b"\n") + 1:]
    first, whole, _ = os.pread(file, LONGEST, 0).partition(b"\n")
    is_ours = _is_object(first.decode(errors="replace")) if whole else first.startswith(b"{")
    if (size and not is_ours) or len(tail) == LONGEST:
        raise BadRecords(f"{path} is no file of records, it was left as it is")
    if tail and _is_object(tail.decode(errors="replace")):
        return size, b"\n"                         # written by hand, or torn at its very end
    return size - len(tail), b""


def _keep_name(path: Path) -> None:
    """Have the folder on the disk as well, where the file system can: a file is lost without."""
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data):]
    os.fsync(file)
