"""Which operating systems are supported where: tables 6-1 to 6-6 of the service's overview, as data.

Each file beside this one is one table; its rows are the table's rows. To add a system, add its version to
the row of its family, or a row.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from imsd.guest.naming import NamedSystem, parse_ims_name


@dataclass(frozen=True, slots=True)
class Row:
    """One family in one table: ``versions`` are 64-bit systems, ``versions_32bit`` 32-bit ones."""

    os: str
    versions: tuple[str, ...]
    versions_32bit: tuple[str, ...]
    not_on: tuple[str, ...]  # server types of the table that do not support it


@dataclass(frozen=True, slots=True)
class Table:
    """``name`` is that of the source, such as 6-1. ``architecture``: x86, arm, or empty for any."""

    name: str
    title: str
    architecture: str
    is_uefi: bool
    is_series: bool  # "7" stands for every 7.x
    server_types: tuple[str, ...]
    rows: tuple[Row, ...]

    def row_of(self, system: NamedSystem) -> Row | None:
        """The row that lists ``system``."""
        for row in self.rows:
            versions = row.versions if system.bits == 64 else row.versions_32bit
            if row.os == system.family and any(self._is_listed(entry, system.version) for entry in versions):
                return row
        return None

    def _is_listed(self, entry: str, version: str) -> bool:
        if entry.casefold() == version.casefold():
            return True
        if not self.is_series:
            return False
        if entry.endswith("x"):
            return len(version) == len(entry) and version.isdigit() and version.startswith(entry[:-1])
        return version.startswith((f"{entry}.", f"{entry} "))


@dataclass(frozen=True, slots=True)
class Support:
    """Where a system is supported, and which table says so."""

    table: str
    architecture: str
    server_types: tuple[str, ...]


def supported(os_version: str, server_type: str = "", architecture: str = "") -> Sequence[Support]:
    """Where ``os_version`` (such as ``CentOS 7.6 64bit``) is supported, narrowed to a type and x86 or arm.

    Empty when it is not listed, or no such system is known.
    """
    system = parse_ims_name(os_version)
    if system is None:
        return ()
    found = []
    for table in tables():
        row = None if table.is_uefi else table.row_of(system)
        if row is None or (architecture and table.architecture != architecture):
            continue
        types = tuple(each for each in table.server_types if each not in row.not_on)
        if server_type:
            types = tuple(each for each in types if each.casefold() == server_type.casefold())
        if types:
            found.append(Support(table.name, table.architecture, types))
    return found


def uefi_supported(os_version: str, architecture: str = "") -> bool:
    """Whether ``os_version`` is listed as a system that boots with UEFI: on ARM nothing else is there."""
    if architecture == "arm":
        return bool(supported(os_version, architecture="arm"))
    system = parse_ims_name(os_version)
    return system is not None and any(table.is_uefi and table.row_of(system) for table in tables())


@cache
def tables() -> Sequence[Table]:
    """All tables, by name."""
    return [_load(path) for path in sorted(Path(__file__).parent.glob("table_*.toml"))]


def _load(path: Path) -> Table:
    content: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    return Table(
        name=content["table"],
        title=content["title"],
        architecture=content.get("architecture", ""),
        is_uefi=content.get("is_uefi", False),
        is_series=content["match"] == "series",
        server_types=tuple(content["server_types"]),
        rows=tuple(
            Row(
                os=row["os"],
                versions=tuple(row["versions"]),
                versions_32bit=tuple(row.get("versions_32bit", ())),
                not_on=tuple(row.get("not_on", ())),
            )
            for row in content["rows"]
        ),
    )
