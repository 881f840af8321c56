"""VDI files made by hand, by the letter of the format's description, with any field wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields

from tests.unit.formats.crafted_tables import some_bytes

ABSENT, ZERO = 0xFFFF_FFFF, 0xFFFF_FFFE
BLOCK = 1 << 20
DATA = 4096


@dataclass(frozen=True)
class Fields:
    """The header, as written; by default of a dynamic disk of four blocks of 1 MiB."""

    text: bytes = b"<<< by hand >>>\n"
    signature: int = 0xBEDA107F
    version: int = 0x10001
    header_bytes: int = 0x180
    kind: int = 1
    flags: int = 0
    comment: bytes = b""
    map_offset: int = 512
    data_offset: int = DATA
    cylinders: int = 0
    heads: int = 0
    sectors: int = 0
    sector_bytes: int = 512
    unused: int = 0
    size: int = 4 * BLOCK
    block_bytes: int = BLOCK
    block_extra_bytes: int = 0
    blocks: int = 4
    allocated_blocks: int = 1
    identity: bytes = b"\1" * 16
    change_identity: bytes = b"\2" * 16
    link: bytes = b""
    parent_change: bytes = b""

    def pack(self) -> bytes:
        values = [getattr(self, field.name) for field in fields(self)]
        return struct.pack("<64sIIIII256sIIIIIIIQIIII16s16s16s16s", *values).ljust(512, b"\0")


def crafted(entries: Sequence[int], data: bytes = b"", fields: Fields | None = None) -> bytes:
    """Header, the map with ``entries``, and ``data`` where the header says."""
    fields = fields or Fields()
    head = fields.pack().ljust(fields.map_offset, b"\0") + struct.pack(f"<{len(entries)}I", *entries)
    return head.ljust(fields.data_offset, b"\0") + data


def sound_disk(chosen: random.Random) -> tuple[bytes, bytes]:
    """A file of at most 2 MiB with blocks of every kind, by the letter of the format, and its disk."""
    count = chosen.choice([1, 2, 5, 20])
    block = chosen.choice([4096, 65536, BLOCK, BLOCK])
    stored = sorted(chosen.sample(range(count), min(count, chosen.randrange(3 if block == BLOCK else 9))))
    places = chosen.sample(range(len(stored)), len(stored))
    entries = [chosen.choice([ABSENT, ZERO]) for _ in range(count)]
    data, disk = bytearray(len(stored) * block), bytearray(count * block)
    for number, place in zip(stored, places, strict=True):
        entries[number] = place
        plain = some_bytes(chosen, 4096).ljust(block, b"\0")
        data[place * block : place * block + block] = plain
        disk[number * block : number * block + block] = plain
    fields = Fields(
        kind=2 if len(stored) == count else 1,
        map_offset=chosen.choice([512, 1024]),
        data_offset=chosen.choice([4096, 8192]),
        size=count * block - chosen.choice([0, block - 512]),
        block_bytes=block,
        blocks=count + chosen.choice([0, 3]),
        allocated_blocks=len(stored),
    )
    return crafted(entries, bytes(data), fields), bytes(disk[: fields.size])


def sound_file(chosen: random.Random) -> bytes:
    """The file of `sound_disk`."""
    return sound_disk(chosen)[0]
