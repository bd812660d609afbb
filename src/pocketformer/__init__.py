"""Compiles Transformers for phones: PyTorch, ONNX or a Hugging Face folder in, a bundle out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketformer import targets as targets
    from pocketformer.compiler.build import compile as compile
    from pocketformer.compiler.bundle import Bundle as Bundle
    from pocketformer.compiler.errors import AccuracyLost as AccuracyLost
    from pocketformer.compiler.errors import BadBundle as BadBundle
    from pocketformer.compiler.errors import BadCalibration as BadCalibration
    from pocketformer.compiler.errors import BadDim as BadDim
    from pocketformer.compiler.errors import BadInput as BadInput
    from pocketformer.compiler.errors import BadMetric as BadMetric
    from pocketformer.compiler.errors import BadModel as BadModel
    from pocketformer.compiler.errors import BadRecipe as BadRecipe
    from pocketformer.compiler.errors import BadRecords as BadRecords
    from pocketformer.compiler.errors import BadTarget as BadTarget
    from pocketformer.compiler.errors import BadWorkload as BadWorkload
    from pocketformer.compiler.errors import BuildFailed as BuildFailed
    from pocketformer.compiler.errors import BuildLost as BuildLost
    from pocketformer.compiler.errors import DeviceCrashed as DeviceCrashed
    from pocketformer.compiler.errors import DeviceFailed as DeviceFailed
    from pocketformer.compiler.errors import DeviceLost as DeviceLost
    from pocketformer.compiler.errors import DeviceRefused as DeviceRefused
    from pocketformer.compiler.errors import LinkFailed as LinkFailed
    from pocketformer.compiler.errors import MissingPackage as MissingPackage
    from pocketformer.compiler.errors import PocketformerError as PocketformerError
    from pocketformer.compiler.errors import SetUpFailed as SetUpFailed
    from pocketformer.compiler.errors import UnknownTarget as UnknownTarget
    from pocketformer.compiler.errors import UnsupportedOperator as UnsupportedOperator
    from pocketformer.compiler.frontends import load as load
    from pocketformer.compiler.manifest import Manifest as Manifest
    from pocketformer.compiler.model import Dim as Dim
    from pocketformer.compiler.model import Model as Model
    from pocketformer.compiler.model import TensorSpec as TensorSpec
    from pocketformer.compiler.profiling import Profile as Profile
    from pocketformer.compiler.profiling import profile as profile
    from pocketformer.compiler.quantization.accuracy import Accuracy as Accuracy
    from pocketformer.compiler.recipe import BFloat16 as BFloat16
    from pocketformer.compiler.recipe import Float16 as Float16
    from pocketformer.compiler.recipe import Float32 as Float32
    from pocketformer.compiler.recipe import Int4Weights as Int4Weights
    from pocketformer.compiler.recipe import Int8 as Int8
    from pocketformer.compiler.session import Session as Session
    from pocketformer.compiler.tuning.records import Records as Records
    from pocketformer.compiler.tuning.result import Tuning as Tuning
    from pocketformer.compiler.tuning.tune import tune as tune
    from pocketformer.targets import Target as Target

__version__ = "0.2.0"

# TVM alone takes a second to import, so that each name is fetched when it is first asked for.
_HOMES = {
    "load": "compiler.frontends",
    "compile": "compiler.build",
    "Model": "compiler.model",
    "Dim": "compiler.model",
    "TensorSpec": "compiler.model",
    "Float32": "compiler.recipe",
    "BFloat16": "compiler.recipe",
    "Float16": "compiler.recipe",
    "Accuracy": "compiler.quantization.accuracy",
    "Int8": "compiler.recipe",
    "Int4Weights": "compiler.recipe",
    "Bundle": "compiler.bundle",
    "Manifest": "compiler.manifest",
    "Session": "compiler.session",
    "profile": "compiler.profiling",
    "Profile": "compiler.profiling",
    "tune": "compiler.tuning.tune",
    "Tuning": "compiler.tuning.result",
    "Records": "compiler.tuning.records",
    "Target": "targets",
    "PocketformerError": "compiler.errors",
    "AccuracyLost": "compiler.errors",
    "BadBundle": "compiler.errors",
    "BadCalibration": "compiler.errors",
    "BadDim": "compiler.errors",
    "BadInput": "compiler.errors",
    "BadMetric": "compiler.errors",
    "BadModel": "compiler.errors",
    "BadRecipe": "compiler.errors",
    "BadRecords": "compiler.errors",
    "BadTarget": "compiler.errors",
    "BadWorkload": "compiler.errors",
    "BuildFailed": "compiler.errors",
    "BuildLost": "compiler.errors",
    "DeviceCrashed": "compiler.errors",
    "DeviceFailed": "compiler.errors",
    "DeviceLost": "compiler.errors",
    "DeviceRefused": "compiler.errors",
    "LinkFailed": "compiler.errors",
    "MissingPackage": "compiler.errors",
    "SetUpFailed": "compiler.errors",
    "UnknownTarget": "compiler.errors",
    "UnsupportedOperator": "compiler.errors",
}

__all__ = [*_HOMES, "targets"]    # noqa: PLE0604 - the names above, all strings


def __getattr__(name: str) -> Any:
    if name == "targets":
        return import_module("pocketformer.targets")
    if name not in _HOMES:
        raise AttributeError(f"module 'pocketformer' has no attribute {name!r}")
    value = getattr(import_module(f"pocketformer.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
