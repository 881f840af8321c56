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
    found = []
    for named, processor in sorted(_systems(), key=_order):
        entry, name = _entry_of(named, processor), ims_name(named)
        types = [one for one in sorted(entry.server_types) if one.casefold() == server_type.casefold()]
        system = ListedSystem(
            platform=named.family,
            os_version=name,
            bits=named.bits,
            architecture=processor,
            is_uefi_supported=uefi_supported(name, processor),
            server_types=types if server_type else sorted(entry.server_types),
            tables=sorted(entry.tables),
        )
        fits = not architecture or processor == architecture
        if fits and (types or not server_type) and (system.is_uefi_supported or not is_uefi_only):
            found.append(system)
    return found


def _systems() -> set[tuple[NamedSystem, str]]:
    """All that the tables name, each with its architecture."""
    return {
        (NamedSystem(row.os, version, bits), _processor(table))
        for table in tables()
        for row in table.rows
        for version, bits in _versions(table, row)
    }


def _processor(table: Table) -> str:
    """A table of boot modes says nothing of processors: those systems are x86, as its source is."""
    return table.architecture or "x86"


def _entry_of(system: NamedSystem, processor: str) -> _Entry:
    """What all tables say of it: one that lists a series has every version of it."""
    entry = _Entry()
    for table in tables():
        row = table.row_of(system) if _processor(table) == processor else None
        if row is not None:
            entry.tables.add(table.name)
            entry.server_types |= set(table.server_types) - set(row.not_on)
    return entry


def _order(system: tuple[NamedSystem, str]) -> tuple[object, ...]:
    """By platform, then 6.9 before 6.10."""
    named, processor = system
    parts = re.findall(r"\d+|\D+", named.version)
    numbered = [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
    return named.family.casefold(), numbered, named.bits, processor


def _versions(table: Table, row: Row) -> Iterator[tuple[str, int]]:
    for bits, versions in ((64, row.versions), (32, row.versions_32bit)):
        for version in versions:
            is_series = table.is_series and version.isdigit()
            yield (f"{version}.x" if is_series else version), bits
