"""The word that lets a client in to a device: told, from the environment, or this user's own."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from pocketformer.compiler.cache import cache_folder
from pocketformer.compiler.errors import BadInput

VARIABLE = "POCKETFORMER_TOKEN"
_WORD = re.compile(r"[!-~]{1,256}")     # it travels among words that blanks part


def find_token(explicit: str | None = None) -> str:
    """`explicit`, else POCKETFORMER_TOKEN's, else that of this user's file, made on first use.

    Raises BadInput for what cannot be a token.
    """
    if explicit is not None:
        return _checked(explicit, "the token")
    if chosen := os.environ.get(VARIABLE):
        return _checked(chosen, VARIABLE)
    file = token_file()
    return read_token(file) if file.exists() else make_token()


def token_file() -> Path:
    """This user's file, whether it exists yet or not."""
    return cache_folder() / "device-token"


def read_token(file: Path) -> str:
    """The token in `file`. Raises BadInput, or OSError where it cannot be read."""
    return _checked(file.read_text(errors="replace").strip(), str(file))


def make_token() -> str:
    """A new token in this user's file, or the one that another process has just put there."""
    file = token_file()
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as opened:
            opened.write(secrets.token_urlsafe(32) + "\n")
        os.link(unfinished, file)       # unlike a rename, this never replaces another's
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()
    return read_token(file)


def _checked(token: str, where: str) -> str:
    if not _WORD.fullmatch(token):
        raise BadInput(f"{where} is no token: one is 1 to 256 letters, digits or signs, no blanks")
    return token
