"""The catalogue as one list: each system once, with all tables that have it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from imsd.guest.naming import NamedSystem, ims_name

from . import Row, Table, tables, uefi_supported


@dataclass(frozen=True, slots=True)
class ListedSystem:
    """``os_version`` ends in ``.x`` where a table has a series. ``architecture``: x86 or arm."""

    platform: str
    os_version: str
    bits: int
    architecture: str
    is_uefi_supported: bool
    server_types: Sequence[str]
    tables: Sequence[str]

    @property
    def os_type(self) -> str:
        """Linux, Windows or Other."""
        return {"Windows": "Windows", "FreeBSD": "Other"}.get(self.platform, "Linux")


@dataclass(slots=True)
class _Entry:
    server_types: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)


def server_types() -> Sequence[str]:
    """Every server type that a table names."""
    return sorted({name for table in tables() for name in table.server_types})


def listed_systems(
    architecture: str = "", server_type: str = "", *, is_uefi_only: bool = False
) -> Sequence[ListedSystem]:
    """The systems that fit, by platform, version and architecture; empty texts fit all."""
    entries: dict[tuple[str, str, int, str], _Entry] = {}
    for table in tables():
        for row in table.rows:
            for version, bits in _versions(table, row):
                # A table of boot modes says nothing of processors: those systems are x86, as its source is.
                key = (row.os, version, bits, table.architecture or "x86")
                entry = entries.setdefault(key, _Entry())
                entry.tables.add(table.name)
                entry.server_types |= set(table.server_types) - set(row.not_on)
    found = []
    for (platform, version, bits, processor), entry in sorted(
        entries.items(), key=lambda each: _order(each[0])
    ):
        name = ims_name(NamedSystem(platform, version, bits))
        types = [one for one in sorted(entry.server_types) if one.casefold() == server_type.casefold()]
        system = ListedSystem(
            platform=platform,
            os_version=name,
            bits=bits,
            architecture=processor,
            is_uefi_supported=uefi_supported(name, processor),
            server_types=types if server_type else sorted(entry.server_types),
            tables=sorted(entry.tables),
        )
        fits = not architecture or processor == architecture
        if fits and (types or not server_type) and (system.is_uefi_supported or not is_uefi_only):
            found.append(system)
    return found


def _order(key: tuple[str, str, int, str]) -> tuple[object, ...]:
    """By platform, then 6.9 before 6.10."""
    platform, version, bits, processor = key
    parts = re.findall(r"\d+|\D+", version)
    numbered = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return platform.casefold(), numbered, bits, processor


def _versions(table: Table, row: Row) -> Iterator[tuple[str, int]]:
    for bits, versions in ((64, row.versions), (32, row.versions_32bit)):
        for version in versions:
            is_series = table.is_series and version.isdigit()
            yield (f"{version}.x" if is_series else version), bits
