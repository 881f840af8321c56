"""Everything a disk holds, one layer below its files: table, partitions, logical volumes, file systems."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .cached import cached
from .codes import ReportFinding, finding
from .file_system import FileSystem
from .iso9660 import Iso9660FileSystem
from .lvm import LogicalVolume, read_logical_volumes
from .partitions import Partition, PartitionTable, TableKind, read_partitions
from .probe import find_file_system
from .signs import ENCRYPTED, LVM_MEMBER, RAID_MEMBER, recognise
from .volume import GuestUnreadable, Volume

WHOLE_DISK = "disk"


@dataclass(frozen=True, slots=True)
class BootFacts:
    """What of the disk's layout lets a firmware start it.

    ``has_boot_code``: the first sector has code; ``has_active_partition``: marked for BIOS;
    ``has_bios_boot``: a partition for GRUB's core; ``has_esp``: an EFI system partition.
    """

    has_boot_code: bool
    has_active_partition: bool
    has_bios_boot: bool
    has_esp: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A volume and what is in it. ``name``: ``disk``, ``partition 2`` or ``vg/lv``.

    ``content`` as blkid names it: a file system, or such as ``swap`` and ``crypto_LUKS``; empty when unknown.
    ``problem`` says why nothing can be read, and is empty when all is well.
    """

    name: str
    volume: Volume | None
    partition: Partition | None
    file_system: FileSystem | None
    content: str
    problem: str

    @property
    def is_encrypted(self) -> bool:
        return self.content in ENCRYPTED


@dataclass(frozen=True, slots=True)
class DiskLayout:
    """``places``: the whole disk if it has a file system of its own, the partitions, the logical volumes."""

    table_kind: TableKind
    partitions: tuple[Partition, ...]
    logical_volumes: tuple[LogicalVolume, ...]
    boot: BootFacts
    places: tuple[Place, ...]
    findings: tuple[ReportFinding, ...]


def read_layout(disk: Volume) -> DiskLayout:
    """Looks at all of it; what cannot be read is a place with a problem or a finding.

    Raises `GuestUnreadable` only when the disk gives no bytes.
    """
    disk = cached(disk)
    table = read_partitions(disk)
    places = list(_whole_disk(disk, table))
    places += [_place(f"partition {part.number}", part.volume, part) for part in table.partitions]
    members = [place.volume for place in places if place.content == LVM_MEMBER and place.volume is not None]
    logical, problems = read_logical_volumes(members)
    places += [_logical_place(volume) for volume in logical]
    findings = [*table.findings, *(finding("LVM_DAMAGED", problem) for problem in problems)]
    return DiskLayout(
        table_kind=table.kind,
        partitions=table.partitions,
        logical_volumes=tuple(logical),
        boot=_boot_facts(table),
        places=tuple(places),
        findings=(*findings, *_place_findings(places)),
    )


def _boot_facts(table: PartitionTable) -> BootFacts:
    return BootFacts(
        has_boot_code=table.has_boot_code,
        has_active_partition=any(part.is_active for part in table.partitions),
        has_bios_boot=any(part.is_bios_boot for part in table.partitions),
        has_esp=any(part.is_esp for part in table.partitions),
    )


def _whole_disk(disk: Volume, table: PartitionTable) -> Iterator[Place]:
    """A disk without a table is one volume; one with a table may be an optical disc as well."""
    if table.kind == "none":
        yield _place(WHOLE_DISK, disk, None)
        return
    try:
        disc = Iso9660FileSystem.open(disk)
    except GuestUnreadable as problem:
        yield Place(WHOLE_DISK, disk, None, None, Iso9660FileSystem.name, str(problem))
        return
    if disc is not None:
        yield Place(WHOLE_DISK, disk, None, disc, disc.name, "")


def _place(name: str, volume: Volume, partition: Partition | None) -> Place:
    file_system, problem = None, ""
    try:
        file_system = find_file_system(volume)
    except GuestUnreadable as damaged:
        problem = str(damaged)
    try:
        content = recognise(volume) if file_system is None else file_system.name
    except GuestUnreadable as damaged:
        return Place(name, volume, partition, None, "", str(damaged))
    return Place(name, volume, partition, file_system, content, "" if content else problem)


def _logical_place(logical: LogicalVolume) -> Place:
    if logical.volume is None:
        return Place(logical.name, None, None, None, "", logical.problem)
    return _place(logical.name, logical.volume, None)


def _place_findings(places: Sequence[Place]) -> Iterator[ReportFinding]:
    encrypted = [place.name for place in places if place.is_encrypted]
    raid = [place.name for place in places if place.content == RAID_MEMBER]
    damaged = [f"{place.name} ({place.problem})" for place in places if place.problem]
    if encrypted:
        yield finding("DISK_ENCRYPTED", f"encrypted, so nobody can look inside: {_listed(encrypted)}")
    if raid:
        yield finding("RAID_MEMBER", f"part of a RAID of Linux, not read: {_listed(raid)}")
    if damaged:
        yield finding("VOLUME_UNREADABLE", f"cannot be read: {_listed(damaged)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
