"""What `pocketformer device list` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from pocketformer.compiler.cli.common import err, out
from pocketformer.compiler.tables import human_bytes, plain_table

if TYPE_CHECKING:
    from pocketformer.compiler.device.adb import Listed
    from pocketformer.compiler.device.listing import Found


def show(found: list[Found], phones: list[Listed]) -> None:
    """Print a row for each device, and a line for each phone with what can be done about it."""
    if found:
        table = plain_table("device", "state", "cores", "instructions", "memory", "system")
        for each in found:
            _add(table, each)
        out.print(table)
    for each in found:
        if each.trouble:
            err.print(f"{each.address}: {each.trouble}", markup=False, soft_wrap=True)
    for phone in phones:
        ready = phone.state == "device"
        advice = f"pocketformer device push --serial {phone.serial}" if ready else phone.state
        out.print(f"adb: {phone.model or 'phone'} {phone.serial}: {advice}", markup=False)
    if not found and not phones:
        out.print("No devices: `pocketformer device emulate` starts one.")


def _add(table: Table, found: Found) -> None:
    info, address = found.info, escape(str(found.address))
    if info is None:
        table.add_row(address, found.state)
        return
    cores = ", ".join(
        f"{core.count} x {core.name or 'unknown'}"
        + (f" at {core.max_mhz:.0f} MHz" if core.max_mhz else "")
        for core in info.cores
    )
    table.add_row(
        address,
        found.state,
        escape(cores),
        ", ".join(sorted(info.isa or ())),
        human_bytes(info.memory_bytes) if info.memory_bytes else "",
        f"{info.arch} {info.os}{' (emulated)' if info.emulated else ''}",
    )


def record(found: Found) -> dict[str, Any]:
    """A device as `--json` tells of it."""
    info = asdict(found.info) if found.info else {}
    if info.get("isa") is not None:
        info["isa"] = sorted(info["isa"])
    return {
        **info,
        "address": str(found.address),
        "key": found.address.key or info.get("key"),
        "host": found.address.host,
        "port": found.address.port,
        "tracker": str(found.tracker) if found.tracker else None,
        "state": found.state,
        "trouble": found.trouble,
    }
