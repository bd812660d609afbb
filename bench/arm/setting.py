"""What the commands of this package share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from pocketformer import targets
from pocketformer.compiler.cli.common import USER_ERROR
from pocketformer.compiler.errors import BadTarget, PocketformerError
from pocketformer.targets import Target


def arm_target(name: str) -> Target:
    """The target `name`, for the emulator's Linux even if the device is a phone."""
    target = targets.load(name)
    if target.arch != "aarch64":
        raise BadTarget(f"{name} is {target.arch}; only 64-bit ARM is counted, such as arm64-linux")
    return replace(target, os="linux", android_api=None)


def show(text: str) -> None:
    print(text, flush=True)


def command(main: Callable[[], None]) -> None:
    """Run `main`; a user's mistake is one sentence and exit code 2."""
    try:
        main()
    except PocketformerError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(USER_ERROR)
