"""The native runtime: what a device needs to run a bundle, and how it is built."""

from __future__ import annotations

from pocketformer.runtime.build import Runtime, build

__all__ = ["Runtime", "build"]
