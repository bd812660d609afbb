"""A dask cluster as we see it: its scheduler, and those workers that build what we would build."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from pocketformer.compiler.errors import MissingPackage, SetUpFailed
from pocketformer.compiler.tuning.cluster_worker import versions

ANSWER = 20.0       # seconds for a scheduler to answer
FIRST = 20.0        # seconds for its first worker to be there
MISSES = 5          # looks in a row that a scheduler may leave without an answer
LOST = (OSError, TimeoutError, ValueError, RuntimeError)    # what dask raises without a scheduler


def connect(address: str) -> Any:
    """dask's client. Raises MissingPackage, SetUpFailed."""
    try:
        from distributed import Client
    except ImportError:
        raise MissingPackage(
            "a cluster needs dask: pip install 'pocketformer[cluster]'"
        ) from None
    for name in ("distributed", "distributed.client"):      # what matters is said by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # of versions: those that matter are compared
        try:
            try:
                return _client(Client, address)
            except AssertionError:      # its loop's thread had no time for ten seconds: once more
                return _client(Client, address)
        except (OSError, TimeoutError, ValueError, TypeError) as error:
            raise SetUpFailed(
                f"no dask scheduler answers at {address}: {str(error).splitlines()[0]}"
            ) from None


def _client(make: Any, address: str) -> Any:
    return make(address, timeout=ANSWER, set_as_default=False, name="pocketformer")


def _difference(wanted: dict[str, str], found: Any) -> str:
    """What a worker has that we do not; "" if it is the same. `found` may be its error."""
    if not isinstance(found, dict):
        return f"one cannot import pocketformer ({type(found).__name__}: {found})"
    return ", ".join(
        f"{found.get(name)} is one's {name}, {mine} is installed here"
        for name, mine in wanted.items() if found.get(name) != mine
    )


class Workers:
    """The workers of a client's scheduler that build what we would build."""

    def __init__(self, client: Any) -> None:
        self.threads: dict[str, int] = {}       # of each worker that fits, by its address
        self._client = client
        self._wanted = versions()
        self._misfits: dict[str, str] = {}      # why each does not fit, "" where it does
        self._misses = 0

    def look(self) -> None:
        """Ask which there are, and the new ones for their versions.

        One look without an answer changes nothing: builds go on at workers that may be there.
        """
        try:
            there: dict[str, int] = self._client.nthreads()
            new = [address for address in there if address not in self._misfits]
            told = self._client.run(versions, workers=new, on_error="return") if new else {}
        except LOST:
            self._misses += 1
            if self._misses > MISSES:
                self.threads = {}
            return
        self._misses = 0
        for address, found in told.items():
            if not isinstance(found, OSError):      # else it has just gone
                self._misfits[address] = _difference(self._wanted, found)
        self.threads = {
            address: count for address, count in there.items()
            if self._misfits.get(address) == ""
        }

    def wait_for_one(self) -> None:
        """Raises SetUpFailed if there is none soon, and says what is wrong with those there are."""
        until = time.monotonic() + FIRST
        while not self.threads:
            self.look()
            trouble = next(filter(None, self._misfits.values()), "")
            if self.threads:
                return
            if trouble or time.monotonic() > until:
                why = f"its workers differ: {trouble}" if trouble else "it has no workers"
                raise SetUpFailed(f"the dask cluster cannot build what is built here: {why}")
            time.sleep(0.2)
