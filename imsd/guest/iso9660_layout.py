"""Structures of ISO 9660: volume descriptors, directory records, El Torito's catalogue.

References: ECMA-119; El Torito 1.0; Joliet 1995; UEFI 2.10, 13.3.2.1 (platform 0xEF).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .record import Record, check_range
from .volume import GuestUnreadable, Volume

SECTOR_BYTES = 2048
FIRST_DESCRIPTOR = 16
MAX_DESCRIPTORS = 32
IDENTIFIER = b"CD001"
BOOT_RECORD, PRIMARY, SUPPLEMENTARY, TERMINATOR = 0, 1, 2, 255
EL_TORITO = b"EL TORITO SPECIFICATION"
JOLIET_ESCAPES = (b"%/@", b"%/C", b"%/E")

# In a volume descriptor: label 40, escapes 88, size of a block 128, root 156, times 813 and 830.
ROOT_OFFSET = 156
LEAST_RECORD_BYTES = 34
BLOCK_SIZES = (512, 1024, 2048)

# In a record: length at 0, extended attributes at 1, place at 2, size at 10, flags at 25, name at 33.
NAME_OFFSET = 33
IS_DIRECTORY, IS_ASSOCIATED, HAS_MORE = 2, 4, 0x80

CATALOGUE_ENTRY_BYTES = 32
MAX_CATALOGUE_ENTRIES = 64
VALIDATION, VALIDATION_KEY, BOOTABLE = 1, b"\x55\xaa", 0x88
SECTION, LAST_SECTION, EXTENSION = 0x90, 0x91, 0x44
PLATFORM_X86, PLATFORM_EFI = 0x00, 0xEF
VIRTUAL_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class DirectoryRecord:
    """``place`` of the record and ``start`` of the content in bytes of the volume."""

    place: int
    raw_name: bytes
    start: int
    size_bytes: int
    flags: int
    system_use: bytes


@dataclass(frozen=True, slots=True)
class VolumeDescriptor:
    label: str
    uuid: str
    block_bytes: int
    root: DirectoryRecord


@dataclass(frozen=True, slots=True)
class BootEntry:
    """What a firmware may start. ``platform``: 0 is x86 BIOS, 0xEF is UEFI; ``start`` in bytes.

    ``loaded_bytes`` is what a BIOS loads; the image of a UEFI loader may be longer.
    """

    platform: int
    is_bootable: bool
    start: int
    loaded_bytes: int


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The descriptors that matter; ``catalogue`` is where El Torito's starts, in bytes."""

    primary: VolumeDescriptor
    joliet: VolumeDescriptor | None
    catalogue: int | None


def read_descriptors(volume: Volume) -> Descriptors | None:
    """The volume's descriptors; None when there are none. Raises `GuestUnreadable`."""
    primary = joliet = catalogue = None
    for raw in _raw_descriptors(volume):
        kind = raw.u8(0)
        if kind == PRIMARY and primary is None:
            primary = _volume_descriptor(raw, "utf-8")
        elif kind == SUPPLEMENTARY and joliet is None and raw.raw(88, 3) in JOLIET_ESCAPES:
            joliet = _volume_descriptor(raw, "utf-16-be")
        elif kind == BOOT_RECORD and catalogue is None and raw.raw(7, len(EL_TORITO)) == EL_TORITO:
            catalogue = raw.u32(71) * SECTOR_BYTES
    return None if primary is None else Descriptors(primary, joliet, catalogue)


def _raw_descriptors(volume: Volume) -> Iterator[Record]:
    for sector in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + MAX_DESCRIPTORS):
        if (sector + 1) * SECTOR_BYTES > volume.size_bytes:
            return
        raw = Record(volume.read(sector * SECTOR_BYTES, SECTOR_BYTES), "little", "a descriptor of ISO 9660")
        if raw.raw(1, 5) != IDENTIFIER or raw.u8(0) == TERMINATOR:
            return
        yield raw


def _volume_descriptor(raw: Record, encoding: str) -> VolumeDescriptor:
    block_bytes = raw.u16(128)
    if block_bytes not in BLOCK_SIZES:
        raise GuestUnreadable(f"ISO 9660 with blocks of {block_bytes} bytes")
    root = parse_record(raw.raw(ROOT_OFFSET, LEAST_RECORD_BYTES), 0, block_bytes)
    label = raw.raw(40, 32).decode(encoding, "replace").split("\0", 1)[0].strip()
    return VolumeDescriptor(
        label, _time_text(raw.raw(830, 16)) or _time_text(raw.raw(813, 16)), block_bytes, root
    )


def _time_text(raw: bytes) -> str:
    """A time as blkid prints it in place of a UUID; empty when it is not set."""
    digits = raw.decode("ascii", "replace")
    if not digits.isdecimal() or not digits.isascii() or not digits.strip("0"):
        return ""
    return "-".join((digits[:4], *(digits[place : place + 2] for place in range(4, 16, 2))))


def parse_record(raw: bytes, place: int, block_bytes: int) -> DirectoryRecord:
    """The record that ``raw`` starts with. Raises `GuestUnreadable`."""
    record = Record(raw, "little", "a directory of ISO 9660")
    length = check_range(record.u8(0), LEAST_RECORD_BYTES, len(raw), "the length of a record")
    name = record.raw(NAME_OFFSET, record.u8(32))
    use = NAME_OFFSET + len(name) + (len(name) + 1) % 2
    start = (record.u32(2) + record.u8(1)) * block_bytes
    return DirectoryRecord(place, name, start, record.u32(10), record.u8(25), raw[use:length])


def read_catalogue(volume: Volume, place: int) -> tuple[BootEntry, ...]:
    """El Torito's entries; empty when there is no catalogue. Raises `GuestUnreadable` for missing bytes."""
    size = min(MAX_CATALOGUE_ENTRIES * CATALOGUE_ENTRY_BYTES, max(0, volume.size_bytes - place))
    raw = Record(
        volume.read(place, size // CATALOGUE_ENTRY_BYTES * CATALOGUE_ENTRY_BYTES), "little", "a catalogue"
    )
    if raw.u8(0) != VALIDATION or raw.raw(30, 2) != VALIDATION_KEY:
        return ()
    return tuple(_boot_entries(raw))


def _boot_entries(raw: Record) -> Iterator[BootEntry]:
    """The entry after the validation, then those of the sections."""
    platform, left, is_last = raw.u8(1), 1, False
    for place in range(CATALOGUE_ENTRY_BYTES, len(raw.content), CATALOGUE_ENTRY_BYTES):
        kind = raw.u8(place)
        if kind == EXTENSION:
            continue
        if left:
            left -= 1
            start, sectors = raw.u32(place + 8) * SECTOR_BYTES, raw.u16(place + 6)
            yield BootEntry(platform, kind == BOOTABLE, start, sectors * VIRTUAL_SECTOR_BYTES)
        elif kind in (SECTION, LAST_SECTION) and not is_last:
            platform, left, is_last = raw.u8(place + 1), raw.u16(place + 2), kind == LAST_SECTION
        else:
            return
