"""A bundle opened on a device, behind a Session."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.compatibility import refuse_device
from pocketformer.compiler.device.address import Address
from pocketformer.compiler.device.connection import Connection, connect
from pocketformer.compiler.device.store import upload_bundle
from pocketformer.compiler.device.token import find_token
from pocketformer.compiler.errors import DeviceRefused
from pocketformer.compiler.progress import Progress
from pocketformer.compiler.signature import Signature

if TYPE_CHECKING:
    from pocketformer.compiler.instrument import TimedCall

_BLOCK_MS = 1000.0     # of runs in one call, so that its time limit and Ctrl-C come through
_MOST_RUNS = 100_000


class RemoteSession:
    """The bundle on `device`, an address or an open connection, which it then has to itself.

    Arrays are those of the bundle's signature, in its order. Raises DeviceRefused before anything
    is sent to a device that cannot run it; see Connection for the other errors.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None,
        *,
        device: str | Connection,
        token: str | None = None,
        timeout: float = 60.0,
        progress: Progress | None = None,
    ) -> None:
        self._manifest, self._signature = bundle.manifest, Signature(bundle.manifest)
        self._sent: list[np.ndarray] | None = None      # the list whose arrays the device has
        if isinstance(device, str):
            device = connect(Address.parse(device), find_token(token), timeout, progress)
        self._connection = device
        self.info = self._connection.info
        try:
            refuse_device(bundle.manifest, self.info)
            self._handle = self._open(bundle, threads, progress)
            self.threads, self.level = self._described()
        except BaseException:
            self.close()
            raise
        self.last_ms: float | None = None

    def _open(self, bundle: Bundle, threads: int | None, progress: Progress | None) -> int:
        if bundle.path is None:
            with tempfile.TemporaryDirectory(prefix="pocketformer-") as folder:
                saved = Path(folder) / "bundle.pf"
                bundle.save(saved)
                return self._open(Bundle.load(saved, check_machine=False), threads, progress)
        upload_bundle(self._connection, bundle, progress)
        return int(self._call("open", bundle.manifest.to_json(), threads or 0))

    def _described(self) -> tuple[int, str]:
        told = json.loads(self._call("describe", self._handle))
        try:
            return int(told["threads"]), str(told["level"])
        except KeyError as missing:
            raise DeviceRefused(
                f"{self._connection.name} does not tell the {missing.args[0]} of a session; "
                "give it this version's runtime"
            ) from None

    def run(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name; `last_ms` then tells how long it took on the device's clock."""
        self._set(arrays)
        (self.last_ms,) = self._time(0, 1)
        return {
            spec.name: self._output(i, np.dtype(spec.dtype))
            for i, spec in enumerate(self._manifest.outputs)
        }

    def time(self, arrays: list[np.ndarray], warmup: int, runs: int) -> list[float]:
        """The milliseconds of each of `runs` runs after `warmup` others, on the device's clock."""
        self._set(arrays)
        times = self._time(warmup, 1)
        while len(times) < runs:
            block = max(1, min(_MOST_RUNS, int(_BLOCK_MS / max(times))))
            times += self._time(0, min(block, runs - len(times)))
        return times[:runs]

    def profile(self, arrays: list[np.ndarray], runs: int) -> list[list[TimedCall]]:
        """For each of `runs` runs, every kernel in order, on the device's clock."""
        from pocketformer.compiler.instrument import TimedCall

        self._set(arrays)
        told = json.loads(self._call("profile", self._handle, runs))
        return [[TimedCall(*call) for call in run] for run in told]

    def close(self) -> None:
        """End the session on the device, which is free afterwards."""
        self._connection.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._connection.call(f"pocketformer.session.{name}", *arguments)

    def _set(self, arrays: list[np.ndarray]) -> None:
        if arrays is self._sent:        # a Session gives the same list only where that is meant
            return
        self._sent = None
        # What no code was compiled for is refused here, before anything is sent.
        self._signature.entry(self._signature.sizes(tuple(array.shape for array in arrays)))
        for i, array in enumerate(arrays):
            shape = "x".join(map(str, array.shape))
            self._call("set", self._handle, i, array.tobytes(), shape)
        self._sent = arrays

    def _time(self, warmup: int, runs: int) -> list[float]:
        told = self._call("run", self._handle, warmup, runs)
        return [float(ns) / 1e6 for ns in np.frombuffer(told, "<i8")]

    def _output(self, i: int, dtype: np.dtype[Any]) -> np.ndarray:
        data = self._call("output", self._handle, i)
        shape = self._call("output_shape", self._handle, i)
        sizes = [int(size) for size in shape.split("x") if size]
        return np.frombuffer(data, dtype).reshape(sizes).copy()     # the copy can be written to
