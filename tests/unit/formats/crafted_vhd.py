"""VHD files made by hand, by the letter of the specification, with any field wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.unit.formats.disk_files import KIB

ABSENT = 0xFFFF_FFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
BLOCK = 512 * KIB


def byte_sum(content: bytes | bytearray) -> int:
    return ~sum(content) & 0xFFFF_FFFF


@dataclass(frozen=True)
class Footer:
    """``checksum`` None: the right one."""

    cookie: bytes = b"conectix"
    features: int = 2
    version: int = 0x10000
    header_offset: int = 512
    time: int = 0
    creator: bytes = b"test"
    creator_version: int = 0x10000
    system: bytes = b"Wi2k"
    original_size: int = 3 * BLOCK
    size: int = 3 * BLOCK
    cylinders: int = 1
    heads: int = 1
    sectors: int = 1
    kind: int = DYNAMIC
    checksum: int | None = None
    identity: bytes = bytes(range(16))
    saved_state: int = 0
    length: int = 512

    def pack(self) -> bytes:
        head = (self.cookie, self.features, self.version, self.header_offset, self.time, self.creator)
        more = (self.creator_version, self.system, self.original_size, self.size)
        rest = (self.cylinders, self.heads, self.sectors, self.kind)
        footer = struct.pack(">8sIIQI4sI4sQQHBBI", *head, *more, *rest)
        tail = (self.identity + bytes([self.saved_state])).ljust(512 - len(footer) - 4, b"\0")
        value = byte_sum(footer + tail) if self.checksum is None else self.checksum
        return (footer + struct.pack(">I", value) + tail)[: self.length]


@dataclass(frozen=True)
class Header:
    """The header of a dynamic disk. ``checksum`` None: the right one."""

    cookie: bytes = b"cxsparse"
    data_offset: int = (1 << 64) - 1
    table_offset: int = 1536
    version: int = 0x10000
    entries: int = 3
    block_size: int = BLOCK
    checksum: int | None = None
    parent_identity: bytes = bytes(16)
    parent_name: str = ""
    locators: bytes = b""

    def pack(self) -> bytes:
        fields = (self.data_offset, self.table_offset, self.version, self.entries, self.block_size)
        head = struct.pack(">8sQQIII", self.cookie, *fields)
        tail = self.parent_identity + bytes(8) + self.parent_name.encode("utf-16-be").ljust(512, b"\0")
        tail = (tail + self.locators.ljust(192, b"\0")).ljust(1024 - len(head) - 4, b"\0")
        value = byte_sum(head + tail) if self.checksum is None else self.checksum
        return head + struct.pack(">I", value) + tail


@dataclass(frozen=True)
class Block:
    """``bitmap`` None: all sectors are written."""

    content: bytes
    bitmap: bytes | None = None


def dynamic(
    blocks: Mapping[int, Block],
    footer: Footer | None = None,
    header: Header | None = None,
    entries: Mapping[int, int] | None = None,
    copy: bytes | None = None,
) -> bytes:
    """A dynamic file: copy of the footer, header, table, ``blocks`` by number in the order given, footer.

    ``entries``: entries of the table that say something else; ``copy``: instead of the footer's copy.
    """
    footer, header = footer or Footer(), header or Header()
    bitmap_bytes = max(512, header.block_size // 4096)
    table_bytes = max(1, -(-4 * header.entries // 512)) * 512
    table = [ABSENT] * (table_bytes // 4)
    content = b""
    for number, block in blocks.items():
        table[number] = (1536 + table_bytes + len(content)) // 512
        content += (b"\xff" if block.bitmap is None else block.bitmap).ljust(
            bitmap_bytes, b"\xff" if block.bitmap is None else b"\0"
        )
        content += block.content.ljust(-(-len(block.content) // 512) * 512, b"\0")
    for number, entry in (entries or {}).items():
        table[number] = entry
    start = replace(footer, length=512).pack() if copy is None else copy
    return start + header.pack() + struct.pack(f">{len(table)}I", *table) + content + footer.pack()


def fixed(content: bytes, footer: Footer | None = None) -> bytes:
    size = len(content)
    standard = Footer(kind=FIXED, header_offset=(1 << 64) - 1, size=size, original_size=size)
    return content + (footer or standard).pack()


def resealed(file: bytes) -> bytes:
    """``file`` with right checksums where footer, copy and header of a dynamic disk are."""
    found = bytearray(file)
    for start, length, place in [(0, 512, 64), (512, 1024, 36), (len(file) - 512, 512, 64)]:
        if start >= 0 and start + length <= len(file) and bytes(found[start : start + 2]) in (b"co", b"cx"):
            found[start + place : start + place + 4] = bytes(4)
            value = byte_sum(found[start : start + length])
            found[start + place : start + place + 4] = struct.pack(">I", value)
    return bytes(found)


def sound_file(chosen: random.Random) -> bytes:
    """A small valid file: fixed or dynamic, old footers, any bitmaps, blocks in any order, a damaged copy."""
    length = chosen.choice([512, 511])
    if chosen.random() < 0.2:
        size = 512 * chosen.randrange(1, 40)
        footer = Footer(kind=FIXED, size=size, length=length, saved_state=chosen.randrange(2))
        return fixed(chosen.randbytes(size), footer)
    whole, rest = chosen.randrange(3), 512 * chosen.randrange(1, 60)
    blocks: dict[int, Block] = {}
    for number in chosen.sample(range(whole + 1), k=chosen.randrange(1, whole + 2)):
        size = rest if number == whole else BLOCK
        bitmap = chosen.choice([None, chosen.randbytes(128), bytes(128), b"\xff\x0f" * 32])
        blocks[number] = Block(chosen.randbytes(size), bitmap)
    # The block that the disk's end cuts must be the last of the file.
    ordered = {number: blocks[number] for number in sorted(blocks, key=lambda number: number == whole)}
    footer = Footer(
        size=whole * BLOCK + rest, length=length, creator=chosen.choice([b"win ", b"vpc ", b"vbox"])
    )
    header = Header(entries=chosen.choice([whole + 1, 200]))
    return dynamic(ordered, footer, header, copy=chosen.choice([None, None, bytes(512)]))
