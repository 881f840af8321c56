"""LVM2: volume groups on the partitions of one disk, their logical volumes as volumes.

Linear and striped volumes can be read. Everything else (RAID, thin, cache, snapshots, parts on a disk that is
not here) is listed with its type and the reason.

References: lvm2, lib/format_text/layout.h (label, header, areas), lib/format_text/import_vsn1.c (text).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from zlib import crc32

from .lvm_text import (
    MAX_TEXT_BYTES,
    Section,
    list_of,
    number_of,
    parse_text,
    section,
    sections,
    text_of,
)
from .record import Record, check_range
from .striped import StripedVolume
from .volume import GuestUnreadable, JoinedVolume, Piece, Volume

SECTOR_BYTES = 512
LABEL_SECTORS = 4
LABEL_ID = b"LABELONE"
LABEL_TYPE = b"LVM2 001"

# After the label: 32 bytes of id, 8 of size, then areas as (offset, size); each of two lists ends with zeros.
AREAS_OFFSET = 40
AREA_BYTES = 16
MAX_AREAS = 8

# In the header of a metadata area: magic at 4, version at 20, start at 24, size at 32, then where texts are:
# offset, size, checksum, flags.
AREA_HEADER_BYTES = 512
AREA_MAGIC = b"\x20LVM2\x20x[5A%r0N*>"
TEXT_OFFSET = 40
TEXT_IGNORED = 1
CHECKSUM_START = 0xF597A6CF

MAX_VOLUMES = 64  # physical ones that are looked at
MAX_LOGICAL_VOLUMES = 128
MAX_SEGMENTS = 4096
MAX_STRIPES = 128
MAX_EXTENT_SECTORS = 1 << 32
MAX_EXTENTS = 1 << 32
MAX_SECTOR = 1 << 54
# All texts of a disk together: each is read once from each physical volume.
MAX_ALL_TEXT_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """``name`` is vg/lv. ``volume`` is None when it cannot be read, and ``problem`` says why."""

    name: str
    type: str
    volume: Volume | None
    problem: str


@dataclass(frozen=True, slots=True)
class _PhysicalVolume:
    id: str
    volume: Volume
    texts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    content: Section
    devices: dict[str, _PhysicalVolume]


def lvm_checksum(content: bytes) -> int:
    """CRC-32 without the inversions, from lvm2's own start value (lib/misc/crc.c)."""
    return ~crc32(content, ~CHECKSUM_START & 0xFFFFFFFF) & 0xFFFFFFFF


def is_physical_volume(volume: Volume) -> bool:
    """Whether one of the first sectors has the label."""
    return _label(volume) is not None


def read_logical_volumes(volumes: Sequence[Volume]) -> tuple[list[LogicalVolume], list[str]]:
    """The logical volumes of all groups on ``volumes``, and what could not be read, in words."""
    problems: list[str] = []
    physical: dict[str, _PhysicalVolume] = {}
    budget = MAX_ALL_TEXT_BYTES
    for volume in volumes[:MAX_VOLUMES]:
        try:
            label = _label(volume)
            if label is not None:
                found = _physical_volume(volume, label, budget)
                budget -= sum(len(text) for text in found.texts)
                physical[found.id] = found
        except GuestUnreadable as problem:
            problems.append(str(problem))
    logical: list[LogicalVolume] = []
    for group in _groups(physical, problems):
        logical += islice(_logical_volumes(group), MAX_LOGICAL_VOLUMES + 1 - len(logical))
    if len(logical) > MAX_LOGICAL_VOLUMES:
        problems.append(f"only the first {MAX_LOGICAL_VOLUMES} logical volumes count")
    return logical[:MAX_LOGICAL_VOLUMES], problems


def _label(volume: Volume) -> Record | None:
    for index in range(LABEL_SECTORS):
        if (index + 1) * SECTOR_BYTES > volume.size_bytes:
            return None
        sector = Record(volume.read(index * SECTOR_BYTES, SECTOR_BYTES), "little", "the label of LVM2")
        if sector.raw(0, 8) == LABEL_ID and sector.raw(24, 8) == LABEL_TYPE and sector.u64(8) == index:
            return sector
    return None


def _physical_volume(volume: Volume, label: Record, budget: int) -> _PhysicalVolume:
    if lvm_checksum(label.content[20:]) != label.u32(16):
        raise GuestUnreadable("the label of LVM2 is damaged")
    header = label.within(check_range(label.u32(20), 32, 400, "the offset in a label of LVM2"), 112)
    data_areas, place = _areas(header, AREAS_OFFSET)
    metadata_areas, _ = _areas(header, place)
    if not data_areas:
        raise GuestUnreadable("a physical volume of LVM2 without room for data")
    texts: list[bytes] = []
    for offset, _ in metadata_areas:
        text = _area_text(volume, offset)
        budget -= len(text)
        if budget < 0:
            raise GuestUnreadable("the metadata of all physical volumes together is too long")
        texts.append(text)
    identity = header.raw(0, 32).decode("ascii", "replace")
    return _PhysicalVolume(identity, volume, tuple(text for text in texts if text))


def _areas(header: Record, place: int) -> tuple[list[tuple[int, int]], int]:
    found: list[tuple[int, int]] = []
    while header.u64(place):
        if len(found) == MAX_AREAS:
            raise GuestUnreadable("a physical volume of LVM2 with too many areas")
        found.append((header.u64(place), header.u64(place + 8)))
        place += AREA_BYTES
    return found, place + AREA_BYTES


def _area_text(volume: Volume, offset: int) -> bytes:
    """The text of a metadata area; empty when the area is unused or damaged: another one may be whole."""
    try:
        header = Record(volume.read(offset, AREA_HEADER_BYTES), "little", "a metadata area of LVM2")
        if header.raw(4, 16) != AREA_MAGIC or lvm_checksum(header.content[4:]) != header.u32(0):
            return b""
        start, length = header.u64(TEXT_OFFSET), header.u64(TEXT_OFFSET + 8)
        if not start or header.u32(TEXT_OFFSET + 20) & TEXT_IGNORED or length > MAX_TEXT_BYTES:
            return b""
        # The area is a ring: what does not fit at its end goes on after its header.
        first = min(length, max(0, header.u64(32) - start))
        text = volume.read(offset + start, first)
        text += volume.read(offset + AREA_HEADER_BYTES, length - first)
    except GuestUnreadable:
        return b""
    return text if lvm_checksum(text) == header.u32(TEXT_OFFSET + 16) else b""


def _groups(physical: dict[str, _PhysicalVolume], problems: list[str]) -> Iterator[_Group]:
    """The groups, each in its newest description."""
    newest: dict[str, tuple[int, str, Section]] = {}
    for text in {text: None for found in physical.values() for text in found.texts}:
        try:
            content = parse_text(text.rstrip(b"\0").decode("utf-8", "replace"))
            name, group = next(sections(content), ("", {}))
            number = number_of(group, "seqno", MAX_SECTOR)
        except GuestUnreadable as problem:
            problems.append(str(problem))
            continue
        known = newest.get(text_of(group, "id"))
        if known is None or known[0] < number:
            newest[text_of(group, "id")] = (number, name, group)
    for _, name, group in newest.values():
        devices = {
            device: physical[identity]
            for device, described in sections(section(group, "physical_volumes"))
            if (identity := text_of(described, "id").replace("-", "")) in physical
        }
        yield _Group(name, group, devices)


def _logical_volumes(group: _Group) -> Iterator[LogicalVolume]:
    described = section(group.content, "logical_volumes")
    segments = [part for _, volume in sections(described) for _, part in sections(volume)]
    snapshots = {text_of(part, "cow_store") for part in segments}
    for name, content in sections(described):
        if "VISIBLE" not in list_of(content, "status"):
            continue
        parts = [part for key, part in sections(content) if key.startswith("segment")]
        types = {"linear" if _is_linear(part) else text_of(part, "type") for part in parts}
        type_name = "snapshot" if name in snapshots else "+".join(sorted(types))
        full_name = f"{group.name}/{name}"
        try:
            if not types <= {"linear", "striped"} or name in snapshots:
                raise GuestUnreadable(f"logical volumes of type {type_name} cannot be read")
            volume = _joined(group, parts)
            yield LogicalVolume(full_name, type_name, volume, "")
        except GuestUnreadable as problem:
            yield LogicalVolume(full_name, type_name, None, str(problem))


def _is_linear(part: Section) -> bool:
    return text_of(part, "type") == "striped" and part.get("stripe_count") == 1


def _joined(group: _Group, parts: Sequence[Section]) -> Volume:
    """The volume that ``parts`` make up, which must follow each other without a gap."""
    if not 1 <= len(parts) <= MAX_SEGMENTS:
        raise GuestUnreadable(f"a logical volume of {len(parts)} segments")
    sectors = number_of(group.content, "extent_size", MAX_EXTENT_SECTORS)
    extent = check_range(sectors, 1, MAX_EXTENT_SECTORS, "the size of an extent") * SECTOR_BYTES
    pieces: list[Piece] = []
    end = 0
    for part in sorted(parts, key=lambda part: number_of(part, "start_extent", MAX_EXTENTS)):
        count = number_of(part, "extent_count", MAX_EXTENTS)
        if number_of(part, "start_extent", MAX_EXTENTS) != end or not count:
            raise GuestUnreadable("a logical volume with a gap")
        end += count
        pieces.append(_segment(group, part, extent, count * extent))
    return JoinedVolume(pieces)


def _segment(group: _Group, part: Section, extent: int, length: int) -> Piece:
    stripes = list_of(part, "stripes")
    count = check_range(len(stripes) // 2, 1, MAX_STRIPES, "the number of stripes")
    if number_of(part, "stripe_count", MAX_STRIPES) != count or length // extent % count:
        raise GuestUnreadable("a logical volume whose stripes do not add up")
    pieces = [
        _stripe(group, device, first, extent, length // count)
        for device, first in zip(stripes[::2], stripes[1::2], strict=False)
    ]
    if count == 1:
        return pieces[0]
    stripe_bytes = number_of(part, "stripe_size", MAX_EXTENT_SECTORS) * SECTOR_BYTES
    return Piece(StripedVolume(pieces, stripe_bytes), 0, length)


def _stripe(group: _Group, device: str | int, first: str | int, extent: int, length: int) -> Piece:
    described = section(section(group.content, "physical_volumes"), str(device))
    physical = group.devices.get(str(device))
    if physical is None:
        raise GuestUnreadable("a part of the logical volume is on a disk that is not here")
    if not isinstance(first, int) or not 0 <= first <= MAX_EXTENTS:
        raise GuestUnreadable("a logical volume whose stripes are damaged")
    start = number_of(described, "pe_start", MAX_SECTOR) * SECTOR_BYTES
    return Piece(physical.volume, start + first * extent, length)
