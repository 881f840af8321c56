"""The partitions of a disk, and what of them matters for booting.

Which table counts follows Linux: the GUID table when the master boot record says so or has no entries,
else the master boot record's own. A disk without either is one volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .codes import ReportFinding, finding
from .gpt import MAX_PARTITIONS, Gpt, GptEntry, has_gpt_signature, read_gpt
from .mbr import EXTENDED_TYPES, PROTECTIVE_TYPE, Mbr, MbrEntry, read_mbr
from .volume import GuestUnreadable, PartVolume, Volume

TableKind = Literal["gpt", "mbr", "none"]

ESP_GUID = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT_GUID = "21686148-6449-6e6f-744e-656564454649"
ESP_MBR_TYPE = "0xef"


@dataclass(frozen=True, slots=True)
class Partition:
    """``start`` and ``length`` in bytes. ``type``: a GUID in lower case, or such as ``0x83`` in an MBR.

    ``volume`` ends where the disk does, should the partition be longer. ``uuid``: what Linux calls its
    PARTUUID, empty when it has none.
    """

    number: int
    start: int
    length: int
    type: str
    name: str
    is_active: bool
    volume: Volume
    uuid: str = ""

    @property
    def is_esp(self) -> bool:
        """Whether it is meant to hold the loaders that UEFI starts."""
        return self.type in (ESP_GUID, ESP_MBR_TYPE)

    @property
    def is_bios_boot(self) -> bool:
        """Whether it is where GRUB keeps its core on a disk with a GUID table."""
        return self.type == BIOS_BOOT_GUID


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """``has_boot_code``: the first 440 bytes of the disk are not all zero."""

    kind: TableKind
    partitions: tuple[Partition, ...]
    has_boot_code: bool
    findings: tuple[ReportFinding, ...]


def read_partitions(disk: Volume) -> PartitionTable:
    """The table that counts, with what is wrong about it as findings. Raises `GuestUnreadable`."""
    mbr = read_mbr(disk)
    has_boot_code = mbr is not None and mbr.has_boot_code
    speaks_of_gpt = mbr is not None and mbr.is_protective
    is_free = mbr is None or not mbr.primary
    if speaks_of_gpt or (is_free and has_gpt_signature(disk)):
        return _of_gpt(disk, mbr, has_boot_code)
    if mbr is None or is_free:
        return PartitionTable("none", (), has_boot_code, ())
    findings = list(_mbr_findings(disk, mbr))
    used = [entry for entry in mbr.primary if entry.type_number not in EXTENDED_TYPES]
    partitions = list(_mbr_partitions(disk, [*used, *mbr.logical], mbr.disk_number))
    findings += _cut_short(disk, partitions)
    return PartitionTable("mbr", tuple(partitions), has_boot_code, tuple(findings))


def _of_gpt(disk: Volume, mbr: Mbr | None, has_boot_code: bool) -> PartitionTable:
    others = [] if mbr is None else [e for e in mbr.primary if e.type_number != PROTECTIVE_TYPE]
    try:
        gpt = read_gpt(disk)
    except GuestUnreadable as problem:
        found = list(_mbr_partitions(disk, others, mbr.disk_number if mbr else 0))
        damaged = finding("GPT_DAMAGED", f"neither GUID partition table can be read: {problem}")
        return PartitionTable("mbr" if found else "gpt", tuple(found), has_boot_code, (damaged,))
    findings = []
    if gpt.is_backup:
        findings.append(finding("GPT_BACKUP_USED", "the first GUID partition table is damaged"))
    if gpt.is_cut:
        findings.append(finding("PARTITIONS_IGNORED", f"only the first {MAX_PARTITIONS} partitions count"))
    if others:
        findings.append(
            finding("HYBRID_MBR", "the master boot record lists partitions beside the GUID table")
        )
    active = {entry.start for entry in others if entry.is_active}
    partitions = list(_gpt_partitions(disk, gpt, active))
    findings += _cut_short(disk, partitions)
    return PartitionTable("gpt", tuple(partitions), has_boot_code, tuple(findings))


def _mbr_findings(disk: Volume, mbr: Mbr) -> Iterator[ReportFinding]:
    if not mbr.is_chain_whole:
        yield finding("PARTITION_CHAIN_BROKEN", "the chain of logical partitions is damaged or too long")
    if has_gpt_signature(disk):
        yield finding("GPT_IGNORED", "the master boot record does not speak of the GUID table that is there")


def _mbr_partitions(disk: Volume, entries: Iterable[MbrEntry], disk_number: int) -> Iterator[Partition]:
    for entry in entries:
        volume = _volume(disk, entry)
        type_name = f"{entry.type_number:#04x}"
        uuid = f"{disk_number:08x}-{entry.number:02x}" if disk_number else ""
        yield Partition(entry.number, entry.start, entry.length, type_name, "", entry.is_active, volume, uuid)


def _gpt_partitions(disk: Volume, gpt: Gpt, active: set[int]) -> Iterator[Partition]:
    for entry in gpt.entries:
        volume = _volume(disk, entry)
        yield Partition(
            number=entry.number,
            start=entry.start,
            length=entry.length,
            type=entry.type_guid,
            name=entry.name,
            is_active=entry.is_bios_bootable or entry.start in active,
            volume=volume,
            uuid=entry.guid,
        )


def _volume(disk: Volume, entry: MbrEntry | GptEntry) -> Volume:
    return PartVolume(disk, min(entry.start, disk.size_bytes), entry.length)


def _cut_short(disk: Volume, partitions: Iterable[Partition]) -> list[ReportFinding]:
    beyond = [part.number for part in partitions if part.start + part.length > disk.size_bytes]
    if not beyond:
        return []
    numbers = ", ".join(str(number) for number in beyond)
    return [finding("PARTITION_BEYOND_END", f"the disk ends before partition {numbers} does")]
