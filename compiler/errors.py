"""What can go wrong because of what a user gave: one sentence each, exit code 2 in a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketformer.compiler.quantization.result import AccuracyReport


class PocketformerError(Exception):
    """Base of every error that a user's input can cause; the message is one complete sentence."""


class BadModel(PocketformerError):
    """The source is no model that can be read: not ONNX, truncated, weights missing."""


class UnsupportedOperator(BadModel):
    """The source uses an operator, or a form of one, that cannot be compiled."""


class BadDim(PocketformerError):
    """A dimension is misspelt, unknown, or does not fit the model."""


class BadRecipe(PocketformerError):
    """A recipe's option is out of its range or does not fit the target."""


class BadCalibration(PocketformerError):
    """Calibration does not reach a layer, or leads it to NaN or a constant; or its weight is NaN.

    Data that is missing is a BadRecipe, data that does not fit the model a BadInput.
    """


class BadMetric(PocketformerError):
    """An accuracy check is set up wrongly, or its metric raises or gives no number."""


class AccuracyLost(PocketformerError):
    """The answers drop by more than an accuracy check allows, whatever layers are kept.

    `report` is the AccuracyReport of what was measured, which the message's table is of.
    """

    def __init__(self, message: str, report: AccuracyReport) -> None:
        super().__init__(message)
        self.report = report


class BadWorkload(PocketformerError):
    """A workload's sizes or options are out of their range or do not fit one another."""


class BadRecords(PocketformerError):
    """A tuning record, or a file of them, cannot be read."""


class UnknownTarget(PocketformerError):
    """No target has this name."""


class BadTarget(PocketformerError):
    """A device file is malformed, or LLVM does not know what it names."""


class LinkFailed(PocketformerError):
    """The linker for this platform is missing or refused the objects."""


class BadBundle(PocketformerError):
    """A bundle is damaged, of another format version, or made for another machine."""


class BadInput(PocketformerError):
    """An input of a run is missing, unexpected, or of another dtype or shape."""


class MissingPackage(PocketformerError):
    """An optional package is needed for this call."""


class BuildFailed(PocketformerError):
    """The native runtime cannot be compiled: no compiler, no NDK, or the compiler's own message."""


class BuildLost(BuildFailed):
    """What builds ran out of time or room, or was ended: that is not the fault of what it built."""


class SetUpFailed(PocketformerError):
    """The emulated phone, a tracker or an adb connection cannot be set up on this machine."""


class DeviceRefused(PocketformerError):
    """A device does not let this client in: wrong token, busy, another TVM, a core without i8mm."""


class DeviceLost(PocketformerError):
    """A device cannot be reached, stopped answering, or ended the connection in the middle."""


class DeviceCrashed(DeviceLost):
    """What was run has ended the process that serves this client; the device itself goes on."""


class DeviceFailed(PocketformerError):
    """A device answered that it cannot do what was asked: its disk is full, a kernel failed."""
