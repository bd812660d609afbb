"""What an object file holds: its functions, and the bytes that it adds to a library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ObjectCode:
    """`bytes` are those that are loaded: code, tables and constants, not symbols or relocations."""

    functions: frozenset[str]
    bytes: int


def read_object(path: Path) -> ObjectCode:
    """What the ELF object file at `path` holds."""
    from elftools.elf.constants import SH_FLAGS
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        functions = frozenset(
            symbol.name
            for symbol in (table.iter_symbols() if table else ())
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF"
        )
        loaded = sum(
            section["sh_size"]
            for section in elf.iter_sections()
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_type"] != "SHT_NOBITS"
        )
    return ObjectCode(functions, loaded)
