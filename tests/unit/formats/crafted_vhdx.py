"""VHDX files made by hand, by the letter of [MS-VHDX], with any field wrong.

Header section, log at 1 MiB, metadata at 2 MiB, BAT at 3 MiB, blocks of 1 MiB from 4 MiB on.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import google_crc32c

from tests.unit.formats.disk_files import KIB, MIB

LOG, METADATA, BAT, DATA = 1 * MIB, 2 * MIB, 3 * MIB, 4 * MIB
BLOCK = MIB
LOG_ID = UUID("11111111-2222-3333-4444-555555555555").bytes_le
NONE, UNDEFINED, ZERO, UNMAPPED, PRESENT, PARTIAL = 0, 1, 2, 3, 6, 7

BAT_REGION = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
METADATA_REGION = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
DISK_ID = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746").bytes_le
LOGICAL = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F").bytes_le
PHYSICAL = UUID("CDA348C7-445D-4471-9CC9-E9885251C556").bytes_le
LOCATOR = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
STRANGE = UUID("deadbeef-dead-beef-dead-beefdeadbeef").bytes_le


def sealed(content: bytes, checksum: int | None = None) -> bytes:
    """``content`` with ``checksum``, None: the right one, in its bytes 4 to 8."""
    value = google_crc32c.value(content[:4] + bytes(4) + content[8:]) if checksum is None else checksum
    return content[:4] + struct.pack("<I", value) + content[8:]


@dataclass(frozen=True)
class Header:
    signature: bytes = b"head"
    checksum: int | None = None
    sequence: int = 7
    log_id: bytes = bytes(16)
    log_version: int = 0
    version: int = 1
    log_length: int = MIB
    log_offset: int = LOG

    def pack(self) -> bytes:
        ids = bytes(range(32)) + self.log_id
        rest = (self.log_version, self.version, self.log_length, self.log_offset)
        head = struct.pack("<4sIQ", self.signature, 0, self.sequence) + ids + struct.pack("<HHIQ", *rest)
        return sealed(head.ljust(4096, b"\0"), self.checksum)


Region = tuple[bytes, int, int, int]  # UUID, offset, length, required
REGIONS: tuple[Region, ...] = ((BAT_REGION, BAT, MIB, 1), (METADATA_REGION, METADATA, MIB, 1))


def region_table(
    regions: Sequence[Region] = REGIONS, count: int | None = None, checksum: int | None = None
) -> bytes:
    table = struct.pack("<4sIII", b"regi", 0, len(regions) if count is None else count, 0)
    table += b"".join(struct.pack("<16sQII", *region) for region in regions)
    return sealed(table.ljust(64 * KIB, b"\0"), checksum)


Item = tuple[bytes, bytes, int]  # UUID, content, flags


@dataclass(frozen=True)
class Disk:
    """``more``: items besides the five; ``without``: the UUID of one that is left out."""

    block_size: int = BLOCK
    flags: int = 0
    size: int = 3 * MIB
    logical: int = 512
    physical: int = 4096
    more: Sequence[Item] = ()
    without: bytes = b""
    signature: bytes = b"metadata"
    count: int | None = None
    place: int = 64 * KIB

    def pack(self) -> bytes:
        items = [
            (PARAMETERS, struct.pack("<II", self.block_size, self.flags), 4),
            (SIZE, struct.pack("<Q", self.size), 6),
            (DISK_ID, bytes(range(16)), 6),
            (LOGICAL, struct.pack("<I", self.logical), 6),
            (PHYSICAL, struct.pack("<I", self.physical), 6),
        ]
        items = [*(item for item in items if item[0] != self.without), *self.more]
        table = struct.pack("<8sHH20x", self.signature, 0, len(items) if self.count is None else self.count)
        content = b""
        for identity, item, flags in items:
            place = self.place + len(content) if item else 0
            table += struct.pack("<16sIII4x", identity, place & 0xFFFF_FFFF, len(item), flags)
            content += item
        return table.ljust(64 * KIB, b"\0") + content


@dataclass(frozen=True)
class Parts:
    """``headers``, ``tables``: both copies."""

    headers: tuple[bytes, bytes] = (Header(sequence=6).pack(), Header().pack())
    tables: tuple[bytes, bytes] = (region_table(), region_table())
    disk: Disk = field(default_factory=Disk)
    log: bytes = b""


def at(mib: int, state: int = PRESENT) -> int:
    """A BAT entry of a block at so many MiB of the file."""
    return mib << 20 | state


def crafted(entries: Sequence[int], data: bytes = b"", parts: Parts | None = None) -> bytes:
    """A file whose BAT has ``entries`` and that holds ``data`` from 4 MiB on."""
    parts = parts or Parts()
    file = bytearray(DATA)
    places = [
        *((0, b"vhdxfile"), (64 * KIB, parts.headers[0]), (128 * KIB, parts.headers[1])),
        *((192 * KIB, parts.tables[0]), (256 * KIB, parts.tables[1]), (LOG, parts.log)),
        *((METADATA, parts.disk.pack()), (BAT, struct.pack(f"<{len(entries)}Q", *entries))),
    ]
    for place, content in places:
        file[place : place + len(content)] = content
    return bytes(file) + data


def dirty(entries: Sequence[int], data: bytes, log: bytes, disk: Disk | None = None) -> bytes:
    """A file that was not closed: its newer header says that there is ``log`` to replay."""
    headers = (Header(sequence=8, log_id=LOG_ID).pack(), Header().pack())
    return crafted(entries, data, Parts(headers=headers, log=log, disk=disk or Disk()))


Write = tuple[int, bytes | int]  # offset; content of 4 KiB, or length of zeros


@dataclass(frozen=True)
class Entry:
    """One entry of a log. ``checksum``, ``length``, ``count`` None: the right one."""

    sequence: int
    writes: Sequence[Write] = ()
    tail: int = 0
    flushed: int = 4 * MIB
    last: int = 4 * MIB
    signature: bytes = b"loge"
    log_id: bytes = LOG_ID
    checksum: int | None = None
    length: int | None = None
    count: int | None = None
    descriptor_sequence: int | None = None
    sector_sequence: int | None = None
    padding: int = 0

    def pack(self) -> bytes:
        number = self.sequence if self.descriptor_sequence is None else self.descriptor_sequence
        split = self.sequence if self.sector_sequence is None else self.sector_sequence
        descriptors, sectors = b"", b""
        for offset, content in self.writes:
            if isinstance(content, int):
                descriptors += struct.pack("<4sIQQQ", b"zero", 0, content, offset, number)
                continue
            descriptors += b"desc" + content[-4:] + content[:8] + struct.pack("<QQ", offset, number)
            sectors += struct.pack("<4sI", b"data", split >> 32) + content[8:-4]
            sectors += struct.pack("<I", split & 0xFFFF_FFFF)
        used = -(-(64 + len(descriptors)) // 4096) * 4096
        length = used + len(sectors) + self.padding if self.length is None else self.length
        count = len(self.writes) if self.count is None else self.count
        head = struct.pack("<4sIII", self.signature, 0, length, self.tail)
        head += struct.pack("<QII16s", self.sequence, count, 0, self.log_id)
        head += struct.pack("<QQ", self.flushed, self.last)
        return sealed((head + descriptors).ljust(used, b"\0") + sectors + bytes(self.padding), self.checksum)


def bat_sector(entries: Sequence[int]) -> bytes:
    """The first 4 KiB of a BAT, as a log writes them."""
    return struct.pack(f"<{len(entries)}Q", *entries).ljust(4096, b"\0")


def resealed(file: bytes) -> bytes:
    """``file`` with right checksums in headers, region tables and the first entries of its log."""
    found = bytearray(file)
    places = [(64 * KIB, 4096), (128 * KIB, 4096), (192 * KIB, 64 * KIB), (256 * KIB, 64 * KIB)]
    entries = range(LOG, min(LOG + 65536, len(file) - 12), 4096)
    places += [(start, struct.unpack_from("<I", file, start + 8)[0]) for start in entries]
    for start, length in places:
        if length < METADATA - start and bytes(found[start : start + 4]) in (b"head", b"regi", b"loge"):
            found[start : start + length] = sealed(bytes(found[start : start + length]))
    return bytes(found)


def sound_file(chosen: random.Random) -> bytes:
    """A small valid file: all states of blocks, a damaged copy of header or table, a log of any kind."""
    tail_bytes = 4096 * chosen.randrange(1, 20)
    whole = chosen.randrange(3)
    disk = Disk(
        size=whole * MIB + tail_bytes,
        logical=chosen.choice([512, 4096]),
        physical=chosen.choice([512, 4096]),
        flags=chosen.randrange(2),
        more=chosen.choice([(), [(STRANGE, b"user", 1)]]),
    )
    absent = [NONE, UNDEFINED, ZERO, UNMAPPED, at(4, UNMAPPED)]
    entries = [at(4 + n) if chosen.random() < 0.6 else chosen.choice(absent) for n in range(whole + 1)]
    data = chosen.randbytes(whole * MIB + tail_bytes)
    damaged = [(chosen.random() < 0.2) * 7 or None, None]
    chosen.shuffle(damaged)
    tables = tuple(region_table(checksum=wrong) for wrong in damaged)
    if chosen.random() < 0.5:
        headers = (Header(sequence=8, checksum=damaged[1]).pack(), Header().pack())
        return crafted(entries, data, Parts(headers, (tables[0], tables[1]), disk))
    writes: list[Write] = [(BAT, bat_sector(entries)), (DATA, 4096), (DATA + 8192, chosen.randbytes(4096))]
    log, sequence, tail = b"", chosen.randrange(1, 1 << 40), 0
    for number in range(chosen.randrange(1, 5)):
        some = chosen.sample(writes, k=chosen.randrange(len(writes) + 1))
        log += Entry(sequence + number, some, tail, padding=chosen.choice([0, 4096])).pack()
    log += chosen.choice([b"", Entry(sequence + 9, writes).pack(), Entry(sequence, checksum=1).pack()])
    headers = (Header(sequence=8, log_id=LOG_ID).pack(), Header(checksum=damaged[1]).pack())
    return crafted([ZERO] * (whole + 1), data, Parts(headers, (tables[0], tables[1]), disk, log))
