"""Debian's packages without root: apt downloads into a private folder, dpkg-deb unpacks them.

The package sources are the system's own; nothing of the system is changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pocketformer.compiler.errors import SetUpFailed
from pocketformer.compiler.progress import Progress, silent

TOOLS = ("apt-get", "apt-config", "dpkg-deb")
# Read last of all of apt's configuration. The empty status file makes apt fetch every dependency.
# Hooks and the indexes that they ask for belong to the system's own updates.
CONFIGURATION = """
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Log "{root}";
APT::Architecture "{arch}";
#clear APT::Architectures;
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Status-Fd "1";
Acquire::Languages "none";
Acquire::Retries "2";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb-src;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::Contents-deb;
#clear Acquire::IndexTargets::deb::CNF;
"""


def available() -> bool:
    """Whether the tools are here: Debian, Ubuntu and what descends from them."""
    return all(map(shutil.which, TOOLS))


def unpack(
    packages: Sequence[str], folder: Path, arch: str | None = None, progress: Progress | None = None
) -> None:
    """Unpack `packages` and all that they depend on in `folder`.

    `arch` is Debian's name of an architecture, this machine's by default. It takes `available()`.
    Raises SetUpFailed if a package or the network is missing, with what apt said.
    """
    report = progress or silent
    with tempfile.TemporaryDirectory(prefix="pocketformer-apt-") as name:
        root = Path(name)
        options = _private_root(root, arch or _own_architecture())
        # Without network this ends well, with warnings: what the other then lacks says nothing.
        _, lists = _apt([*options, "update"], lambda done: report("package lists", 0.3 * done))
        install = [*options, "install", "--yes", "--download-only", "--no-install-recommends"]
        code, cause = _apt(
            [*install, *packages], lambda done: report("packages", 0.3 + 0.5 * done)
        )
        if code:
            raise SetUpFailed(
                f"apt-get cannot download {', '.join(packages)}"
                f"{f' for {arch}' if arch else ''}: {lists or cause or f'code {code}'}"
            )
        files = sorted((root / "cache" / "archives").glob("*.deb"))
        for number, file in enumerate(files):
            report(f"unpacking {file.name.partition('_')[0]}", 0.8 + 0.2 * number / len(files))
            _dpkg_unpack(file, folder)
    for each in ("lib", "lib64"):
        # From Debian 13 on the packages hold usr/lib alone, and a system has a link beside it.
        if not (folder / each).exists() and (folder / "usr" / each).exists():
            (folder / each).symlink_to(f"usr/{each}")


def _private_root(root: Path, arch: str) -> list[str]:
    """The command apt-get with all that it writes below `root`."""
    for each in ("state/lists/partial", "cache/archives/partial"):
        (root / each).mkdir(parents=True)
    (root / "state" / "status").touch()
    configuration = root / "apt.conf"
    configuration.write_text(CONFIGURATION.format(root=root, arch=arch))
    return ["apt-get", "-q", "-c", str(configuration)]


def _own_architecture() -> str:
    command = ["apt-config", "shell", "arch", "APT::Architecture"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return told.partition("'")[2].partition("'")[0]     # arch='amd64'


def _apt(command: Sequence[str], progress: Callable[[float], None]) -> tuple[int, str]:
    """Run apt-get; its exit code, and what it complained of, "" if of nothing."""
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            text=True,
            errors="replace",
            start_new_session=True,     # Ctrl-C is ours: it must not reach apt's downloaders first
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                kind, _, rest = line.partition(":")
                if kind == "dlstatus" and rest.count(":") >= 2:
                    progress(float(rest.split(":")[1]) / 100)
            process.wait()
        finally:
            _end(process)
        errors.seek(0)
        said = [line.strip() for line in errors if line.startswith(("E:", "W:", "Err:"))]
    # A line about a file that could not be fetched names the cause: the others follow from it.
    said.sort(key=lambda line: "Failed to fetch" not in line)
    return process.returncode, said[0].partition(":")[2].strip().rstrip(".") if said else ""


def _end(process: subprocess.Popen[str]) -> None:
    """End apt-get and its downloaders, if Ctrl-C or an error left them running."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout:
        process.stdout.close()


def _dpkg_unpack(file: Path, folder: Path) -> None:
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(file), str(folder)],
        capture_output=True, text=True, errors="replace", check=False, start_new_session=True,
    )
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[0]
        raise SetUpFailed(f"{file.name} cannot be unpacked in {folder}: {cause}")
