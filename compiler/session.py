"""Session: run a bundle by the names of its inputs and outputs, on this machine or on a device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketformer.compiler.bundle import Bundle
from pocketformer.compiler.compatibility import refuse_machine
from pocketformer.compiler.errors import BadInput
from pocketformer.compiler.instrument import TimedCall
from pocketformer.compiler.local import LocalSession
from pocketformer.compiler.model import TensorSpec
from pocketformer.compiler.signature import Signature, check_outputs

if TYPE_CHECKING:
    from pocketformer.compiler.device.connection import Connection
    from pocketformer.compiler.device.info import DeviceInfo
    from pocketformer.compiler.device.remote import RemoteSession

LONGEST_TIMEOUT = 86400     # seconds: a timer cannot wait for ever


class Session:
    """A loaded bundle, ready to run.

    `bundle` is a Bundle or the path of one. `threads` is how many threads the kernels use; None
    takes TVM_NUM_THREADS, else what the bundle's target prefers. It is at most the number of CPUs
    that the process may use. Runs of one session wait for one another; those of two sessions in two
    threads do not, and have threads of their own. All of them sleep when no run is under way.

    With `device`, such as "rpc://host:port/key" of a device or of a tracker, or a connection that
    is open already, the bundle is uploaded where the device lacks it and runs there; `progress` is
    called with a step and a fraction. `token` lets the client in (None takes POCKETFORMER_TOKEN,
    else this user's own). A device that does not answer a call within `timeout` seconds is given
    up. The device serves nobody else until `close()`, the end of a `with` block, or the session's
    last reference.

    Raises BadBundle for a bundle that this machine cannot run; DeviceRefused, DeviceLost and
    DeviceFailed for what goes wrong with a device.
    """

    def __init__(
        self,
        bundle: Bundle | str | os.PathLike[str],
        threads: int | None = None,
        *,
        device: str | Connection | None = None,
        token: str | None = None,
        timeout: float = 60.0,
        progress: Callable[[str, float], None] | None = None,
    ) -> None:
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(bundle, check_machine=device is None)
        if threads is not None and (type(threads) is not int or threads < 1):
            raise BadInput(f"threads is {threads!r}, it must be a whole number from 1 on")
        if not isinstance(timeout, (int, float)) or not 0 < timeout <= LONGEST_TIMEOUT:
            raise BadInput(
                f"timeout is {timeout!r}, it must be a number of seconds above 0, "
                f"at most {LONGEST_TIMEOUT}"
            )
        self.bundle = bundle
        self._signature = Signature(bundle.manifest)
        self._lock = threading.Lock()
        self._closed = False
        self._profiled: list[np.ndarray] | None = None
        self._runner: LocalSession | RemoteSession
        if device is None:
            refuse_machine(bundle.manifest)
            self._runner = LocalSession(bundle, threads)
        else:
            from pocketformer.compiler.device.remote import RemoteSession

            self._runner = RemoteSession(
                bundle, threads, device=device, token=token, timeout=timeout, progress=progress
            )
        self.threads = self._runner.threads

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each input."""
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each output."""
        return self._signature.outputs

    @property
    def level(self) -> str:
        """The bundle's level that runs, the last that the processor can; "" where it has one."""
        return self._runner.level

    @property
    def device(self) -> DeviceInfo | None:
        """What the device told of itself at the beginning, None on this machine."""
        return self._runner.info

    @property
    def last_ms(self) -> float | None:
        """How long the last run took, in milliseconds on the clock of where it ran."""
        return self._runner.last_ms

    def run(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Mapping[str, np.ndarray] | Iterable[str] | None = None,
        **named: Any,
    ) -> dict[str, np.ndarray]:
        """The outputs by name, for inputs by name, or in a dict where a name is no identifier.

        An input is a numpy array, or any CPU tensor with DLPack, of exactly the dtype and shape
        that `inputs` tells. `outputs` chooses some outputs by name; where it is a dict of arrays,
        the results are written to these and they are returned. Arrays that are returned otherwise
        are the caller's: later runs leave them alone.

        Raises BadInput for an input or output array that does not fit; nothing was written then.
        """
        given = {**inputs, **named} if inputs else named
        arrays = self._signature.arrays(given)
        if outputs is None:
            with self._lock:
                self._refuse_if_closed()
                return self._runner.run(arrays)
        names = self._signature.output_names(outputs)
        with self._lock:
            self._refuse_if_closed()
            results = self._runner.run(arrays)
            if not isinstance(outputs, Mapping):
                return {name: results[name] for name in names}
            check_outputs(outputs, results)
            for name in names:
                np.copyto(outputs[name], results[name])
            return {name: outputs[name] for name in names}

    def time(self, inputs: Mapping[str, Any], warmup: int = 3, runs: int = 20) -> list[float]:
        """The milliseconds of `runs` runs after `warmup` others, by the clock of where they run.

        Neither the copying of inputs and outputs nor the way to a device counts. Raises BadInput
        as `run` does.
        """
        if warmup < 0 or runs < 1:
            raise BadInput(f"{warmup} runs for warming up and {runs} to time, at least 0 and 1")
        arrays = self._signature.arrays(inputs)
        with self._lock:
            self._refuse_if_closed()
            return self._runner.time(arrays, warmup, runs)

    def profile(
        self, inputs: Mapping[str, Any] | None, runs: int = 20
    ) -> list[list[TimedCall]]:
        """For each of `runs` runs, all calls that the virtual machine made, and when.

        Among them are the kernels, by their functions' names, in their order. The times are those
        of the clock of where they run. None for `inputs` takes those of the profile before, which
        are not sent to a device again. Raises BadInput as `run` does.
        """
        if runs < 1:
            raise BadInput(f"{runs} runs to profile, it must be at least 1")
        arrays = self._profiled if inputs is None else self._signature.arrays(inputs)
        if arrays is None:
            raise BadInput("there was no profile before whose inputs could be taken")
        with self._lock:
            self._refuse_if_closed()
            self._profiled = arrays
            return self._runner.profile(arrays, runs)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BadInput("the session is closed")

    def close(self) -> None:
        """End the session; on a device, a run in another thread breaks off with DeviceLost."""
        self._closed = True
        self._runner.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
