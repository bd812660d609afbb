"""Where the time of a bundle's run goes: measured call by call, explained by source operators."""

from pocketformer.compiler.profiling.measure import profile
from pocketformer.compiler.profiling.result import Call, Group, Kernel, Limits, Profile

__all__ = ["Call", "Group", "Kernel", "Limits", "Profile", "profile"]
