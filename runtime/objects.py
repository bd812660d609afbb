"""Sources -> object files, several at a time, each kept for the next build."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.errors import BuildFailed
from pocketformer.runtime.sources import Source
from pocketformer.runtime.toolchain import Toolchain


@dataclass(frozen=True)
class Object:
    """The object file of a source: how it is made, and where it is kept."""

    source: Path
    command: tuple[str, ...]
    path: Path

    @classmethod
    def of(cls, source: Source, toolchain: Toolchain) -> Object:
        compiler = toolchain.cc if source.path.suffix == ".c" else toolchain.cxx
        command = (*compiler, *source.flags, "-c", str(source.path))
        digest = hashlib.sha256(source.path.read_bytes())
        digest.update("\0".join((*command, toolchain.version, source.headers)).encode())
        return cls(source.path, command, _kept(f"{source.path.stem}-{digest.hexdigest()[:20]}.o"))

    @classmethod
    def standard_library(cls, toolchain: Toolchain, link: Sequence[str]) -> Object:
        """An empty library. To link the first one, zig compiles its C++ library for a minute."""
        command = (*toolchain.cxx, "-shared", *link, "-x", "c++", os.devnull)
        digest = hashlib.sha256("\0".join((*command, toolchain.version)).encode())
        return cls(Path("libc++"), command, _kept(f"libc++-{digest.hexdigest()[:20]}.so"))


@dataclass
class Compiler:
    """Runs commands of a toolchain; what they write goes to the folder `scratch` first."""

    toolchain: Toolchain
    scratch: Path
    running: set[subprocess.Popen[str]] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def compile(
        self,
        objects: Sequence[Object],
        jobs: int,
        done: Callable[[Path, float], None],
        again: bool = False,
    ) -> None:
        """Compile those of `objects` that are not kept yet, or all `again`, `jobs` at a time.

        `done` is told of every source that is compiled, with the fraction of all of them.
        Raises BuildFailed with the compiler's first error; then, as after Ctrl-C, no compiler
        is left running.
        """
        missing = [each for each in objects if again or not each.path.exists()]
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = {pool.submit(self._compile, each): each for each in missing}
                for number, future in enumerate(as_completed(futures), 1):
                    future.result()
                    done(futures[future].source, number / len(missing))
            except BaseException:
                self._stop()
                raise

    def run(self, command: Sequence[str], what: str) -> None:
        """Run `command`; raises BuildFailed, whose sentence begins with `what`, if it fails."""
        with self.lock:
            if self.stopped:
                raise BuildFailed(f"{what} was stopped")
            try:
                # A session of its own: what zig starts can be ended with it.
                process = subprocess.Popen(
                    command,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    env={**os.environ, **self.toolchain.environment},
                    start_new_session=True,
                )
            except OSError as error:
                raise BuildFailed(f"{command[0]} cannot be run: {error.strerror}") from None
            self.running.add(process)
        try:
            _, errors = process.communicate()
        except BaseException:
            self._stop()
            raise
        finally:
            with self.lock:
                self.running.discard(process)
        if process.returncode:
            raise BuildFailed(f"{what} failed: {_first_error(errors, process.returncode)}")

    def _compile(self, item: Object) -> None:
        part = self.scratch / item.path.name
        self.run([*item.command, "-o", str(part)], f"compiling {item.source.name}")
        os.replace(part, item.path)

    def _stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)


def _kept(name: str) -> Path:
    return cache_folder("runtime", "objects") / name


def _first_error(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), "") or (
        lines[0] if lines else f"it ended with code {code}"
    )
