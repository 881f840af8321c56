"""Structures of FAT12, FAT16 and FAT32: boot sector, entries of directories, long names.

Reference: Microsoft, FAT32 File System Specification 1.03 (fatgen103); Linux, fs/fat/inode.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .record import Record, check_range
from .volume import GuestUnreadable, Volume

BOOT_BYTES = 512
JUMPS = (0xEB, 0xE9)
SIGNATURE = b"\x55\xaa"
# Other file systems with the same kind of boot sector.
OTHER_NAMES = (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-")
SECTOR_SIZES = (512, 1024, 2048, 4096)
MAX_CLUSTER_BYTES = 256 << 10
MAX_FATS = 4

# More clusters than this need wider entries in the FAT.
MOST_CLUSTERS_12 = 4084
MOST_CLUSTERS_16 = 65_524
MOST_CLUSTERS_32 = 0x0FFFFFF5

EXTENDED_SIGNATURE = 0x29

ENTRY_BYTES = 32
END, DELETED, ESCAPED_E5 = 0x00, 0xE5, 0x05
VOLUME_LABEL, DIRECTORY, LONG_NAME = 0x08, 0x10, 0x0F
LOWER_NAME, LOWER_EXTENSION = 0x08, 0x10
LAST_PIECE = 0x40
MAX_PIECES = 20  # of 13 characters each


@dataclass(frozen=True, slots=True)
class BootSector:
    """Places and sizes in bytes. ``width``: 12, 16 or 32 bits in the FAT."""

    width: int
    fat_place: int
    fat_bytes: int
    root_place: int
    root_bytes: int
    root_cluster: int
    first_cluster_place: int
    cluster_bytes: int
    clusters: int
    label: str
    uuid: str


def read_boot_sector(volume: Volume) -> BootSector | None:
    """The boot sector; None when it is none of FAT. Raises `GuestUnreadable` when it contradicts itself."""
    if volume.size_bytes < BOOT_BYTES:
        return None
    record = Record(volume.read(0, BOOT_BYTES), "little", "a boot sector of FAT")
    sector, cluster_sectors = record.u16(11), record.u8(13)
    if record.u8(0) not in JUMPS or record.raw(510, 2) != SIGNATURE or record.raw(3, 8) in OTHER_NAMES:
        return None
    is_plausible = sector in SECTOR_SIZES and cluster_sectors and not cluster_sectors & (cluster_sectors - 1)
    if not is_plausible or not 1 <= record.u8(16) <= MAX_FATS or not record.u16(14):
        return None
    return _checked(record, sector, cluster_sectors)


def _checked(record: Record, sector: int, cluster_sectors: int) -> BootSector:
    is_32 = not record.u16(22)
    fat_sectors = record.u32(36) if is_32 else record.u16(22)
    root_place = record.u16(14) + record.u8(16) * fat_sectors
    root_sectors = -(-record.u16(17) * ENTRY_BYTES // sector)
    data_place = root_place + root_sectors
    clusters = ((record.u16(19) or record.u32(32)) - data_place) // cluster_sectors
    check_range(clusters, 1, MOST_CLUSTERS_32 if is_32 else MOST_CLUSTERS_16, "the number of clusters")
    width = 32 if is_32 else 12 if clusters <= MOST_CLUSTERS_12 else 16
    fat_bytes = fat_sectors * sector
    if fat_bytes * 8 < (clusters + 2) * width:
        raise GuestUnreadable("the table of FAT is too short for its clusters")
    extended = 64 if is_32 else 36
    is_extended = record.u8(extended + 2) == EXTENDED_SIGNATURE
    serial = record.u32(extended + 3) if is_extended else 0
    label = record.raw(extended + 7, 11).decode("cp437").rstrip() if is_extended else ""
    return BootSector(
        width=width,
        fat_place=record.u16(14) * sector,
        fat_bytes=fat_bytes,
        root_place=root_place * sector,
        root_bytes=root_sectors * sector,
        root_cluster=record.u32(44) if is_32 else 0,
        first_cluster_place=data_place * sector,
        cluster_bytes=check_range(cluster_sectors * sector, 512, MAX_CLUSTER_BYTES, "the size of a cluster"),
        clusters=clusters,
        label="" if label == "NO NAME" else label,
        uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}" if serial else "",
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory. ``place``: of its 32 bytes on the volume."""

    name: str
    place: int
    attributes: int
    cluster: int
    size_bytes: int


def parse_entries(pieces: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
    """The entries in runs of bytes of a directory, given with their place; labels are among them."""
    long_name = _LongName()
    for place, content in pieces:
        for offset in range(0, len(content) - ENTRY_BYTES + 1, ENTRY_BYTES):
            raw = content[offset : offset + ENTRY_BYTES]
            if raw[0] == END:
                return
            if raw[0] != DELETED and raw[11] & 0x3F == LONG_NAME:
                long_name.add(raw)
                continue
            if raw[0] != DELETED:
                yield parse_entry(raw, place + offset, long_name.whole(raw[:11]))
            long_name = _LongName()


def parse_entry(raw: bytes, place: int, long_name: str = "") -> Entry:
    """The entry in 32 bytes, with its short name when there is no long one."""
    record = Record(raw, "little", "an entry of FAT")
    cluster = record.u16(26) | record.u16(20) << 16
    name = raw[:11].decode("cp437").rstrip() if raw[11] & VOLUME_LABEL else long_name or _short_name(raw)
    return Entry(name, place, raw[11], cluster, record.u32(28))


def _short_name(raw: bytes) -> str:
    stem, extension = raw[:8], raw[8:11]
    if stem[0] == ESCAPED_E5:
        stem = b"\xe5" + stem[1:]
    first, last = stem.decode("cp437").rstrip(), extension.decode("cp437").rstrip()
    first = first.lower() if raw[12] & LOWER_NAME else first
    last = last.lower() if raw[12] & LOWER_EXTENSION else last
    return f"{first}.{last}" if last else first


class _LongName:
    """Collects the pieces of a long name, which lie before their entry, the last one first."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._wanted = 0
        self._sum = 0

    def add(self, raw: bytes) -> None:
        number = raw[0] & ~LAST_PIECE
        if raw[0] & LAST_PIECE and 1 <= number <= MAX_PIECES:
            self._pieces, self._wanted, self._sum = [], number, raw[13]
        if not number or number != self._wanted or raw[13] != self._sum:
            self._pieces, self._wanted = [], 0
            return
        self._pieces.append(raw[1:11] + raw[14:26] + raw[28:32])
        self._wanted -= 1

    def whole(self, short: bytes) -> str:
        """The name, when all its pieces were there and belong to the entry with this short name."""
        if self._wanted or not self._pieces or self._sum != _checksum(short):
            return ""
        text = b"".join(reversed(self._pieces)).decode("utf-16-le", "replace")
        return text.split("\0", 1)[0]


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total
