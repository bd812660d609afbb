"""What the commands share: consoles, errors as exit codes, progress, `NAME=VALUE` options."""

from __future__ import annotations

import functools
import json
import logging
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pocketformer.compiler.errors import PocketformerError

USER_ERROR, OUR_ERROR, INTERRUPTED = 2, 1, 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

out = Console()
err = Console(stderr=True)
if not out.is_terminal:
    out.width = 200    # a file or a pipe has no edge to fold a table at

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
BundleFile = Annotated[Path, typer.Argument(help="A bundle.", show_default=False)]
InputsFile = Annotated[
    Path | None, typer.Argument(help="An .npz file of the inputs.", show_default=False)
]
OneInput = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=FILE.npy", help="One input's array."),
]
MadeUpSizes = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="A size for made-up inputs."),
]
Dims = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        metavar="NAME=SIZE",
        help="A dimension's size (seq=128), range (seq=1..512) or buckets (seq=16,32,64); "
        "NAME is an axis or INPUT.AXIS. May be repeated.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", "-j", min=1, help="Worker threads; one a big core by default."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="rpc://HOST:PORT/KEY",
        help="Run on this device, or on one that the tracker there hands out.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="The device's token, if neither POCKETFORMER_TOKEN nor your own file is it."),
]
Html = Annotated[
    Path | None, typer.Option(help="Write a page with pictures to this file.")
]
Timeout = Annotated[
    float, typer.Option(min=0.1, help="Seconds that the device may take for one call.")
]

Command = TypeVar("Command", bound=Callable[..., None])


def guarded(command: Command) -> Command:
    """A command that ends with one sentence on stderr and an exit code, not with a traceback.

    2 is the user's mistake, 1 is ours, 130 is Ctrl-C or what else asks it to end. `--debug` adds
    the traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        with _ended_by_signals() as came:
            try:
                command(*args, **options)
            except (typer.Exit, BrokenPipeError):
                raise
            except (KeyboardInterrupt, Exception) as error:
                if came or is_interruption(error):
                    err.print("[yellow]Interrupted; nothing was written.[/]")
                    raise typer.Exit(INTERRUPTED) from None
                if options.get("debug"):
                    traceback.print_exc()
                sentence, code = describe(error)
                err.print(f"[red]error:[/] {plain(sentence)}", soft_wrap=True, highlight=False)
                raise typer.Exit(code) from None

    return run    # type: ignore[return-value]


@contextmanager
def _ended_by_signals() -> Iterator[list[int]]:
    """SIGTERM and a closed terminal end the command as Ctrl-C does, so that nothing is left.

    Gives the signals that came: of an interruption in the midst of TVM no more may be known than
    that something failed. What the command was started to ignore, as by nohup, stays ignored.
    """
    came: list[int] = []

    def handler(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in ENDING}
    replaced = {
        each: old for each, old in before.items()
        if old in (signal.SIG_DFL, signal.default_int_handler)
        and threading.current_thread() is threading.main_thread()
    }
    for each in replaced:
        signal.signal(each, handler)
    try:
        yield came
    finally:
        for each, old in replaced.items():
            signal.signal(each, old)


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind `error`: an import that it breaks off may raise another error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def describe(error: BaseException) -> tuple[str, int]:
    """The sentence and the exit code for an error."""
    if isinstance(error, PocketformerError):
        return str(error), USER_ERROR
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}", USER_ERROR
    lines = str(error).strip().splitlines() or [""]
    return (
        f"unexpected {type(error).__name__}: {lines[-1][:300]}"
        " (run again with --debug for the traceback)",
        OUR_ERROR,
    )


@contextmanager
def progress(first_step: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, gone at the end; yields what sets its step and its fraction."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),    # it may be a path
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(first_step, total=1.0)

        def report(step: str, fraction: float) -> None:
            bar.update(task, description=step, completed=fraction)

        yield report


@contextmanager
def remarks(logger: str) -> Iterator[None]:
    """Warnings of `logger` become lines on stderr."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: err.print(    # type: ignore[method-assign]
        f"[yellow]note:[/] {plain(record.getMessage())}", soft_wrap=True, highlight=False)
    log = logging.getLogger(logger)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def plain(text: str) -> str:
    """`text` for a console: what a file or a device says must not command the terminal."""
    return escape("".join(each if each.isprintable() or each == "\n" else "?" for each in text))


def key_values(options: Sequence[str] | None, flag: str) -> dict[str, str]:
    """`["seq=128"]` as `{"seq": "128"}`; `flag` is the option's name for the message."""
    pairs = {}
    for text in options or ():
        key, equals, value = text.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise PocketformerError(f"{flag} takes NAME=VALUE, not {text!r}")
        if key.strip() in pairs:
            raise PocketformerError(f"{flag} has {key.strip()!r} twice")
        pairs[key.strip()] = value.strip()
    return pairs


def check_page(file: Path | None) -> None:
    """Raises BadInput or MissingPackage, before the work, where --html cannot write `file`."""
    if file is None:
        return
    from pocketformer.compiler.replace import check_file
    from pocketformer.compiler.svg import require_matplotlib

    require_matplotlib()
    check_file(file, "--html takes a file")


def read_token_file(file: Path | None) -> str | None:
    """The token in `file`, None without one. Raises BadInput or OSError."""
    if file is None:
        return None
    from pocketformer.compiler.device.token import read_token

    return read_token(file)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
