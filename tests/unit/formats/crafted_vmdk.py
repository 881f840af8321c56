"""VMDK files made by hand, by the letter of the format's description, with anything wrong."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.unit.formats.disk_files import noise, text

SECTOR = 512
GRAIN = 128 * SECTOR
AT_END = 0xFFFF_FFFF_FFFF_FFFF
NEWLINE, REDUNDANT, ZERO_GRAINS, COMPRESSED, MARKERS = 1, 2, 4, 1 << 16, 1 << 17
STREAM_FLAGS = NEWLINE | COMPRESSED | MARKERS
END, TABLE, DIRECTORY, FOOTER = range(4)
PER_TABLE = 512


@dataclass(frozen=True)
class Fields:
    """The header, as written; by default of a sparse disk of four grains of 64 KiB."""

    magic: bytes = b"KDMV"
    version: int = 1
    flags: int = NEWLINE
    capacity: int = 4 * 128
    grain: int = 128
    descriptor: int = 1
    descriptor_sectors: int = 20
    entries: int = 512
    redundant: int = 0
    directory: int = 21
    overhead: int = 128
    unclean: int = 0
    newlines: bytes = b"\n \r\n"
    compression: int = 0

    def pack(self) -> bytes:
        head = struct.pack(
            "<4sIIQQQQIQQQB4sH",
            self.magic,
            self.version,
            self.flags,
            self.capacity,
            self.grain,
            self.descriptor,
            self.descriptor_sectors,
            self.entries,
            self.redundant,
            self.directory,
            self.overhead,
            self.unclean,
            self.newlines,
            self.compression,
        )
        return head.ljust(SECTOR, b"\0")


STREAM = Fields(version=3, flags=STREAM_FLAGS, directory=AT_END, compression=1)


def description(
    capacity: int = 4 * 128,
    create_type: str = "monolithicSparse",
    parent: str = "ffffffff",
    extents: str | None = None,
    more: str = "",
) -> bytes:
    extents = f'RW {capacity} SPARSE "disk.vmdk"' if extents is None else extents
    return (
        "# Disk DescriptorFile\nversion=1\nCID=12345678\n"
        f'parentCID={parent}\ncreateType="{create_type}"\n\n# Extent description\n{extents}\n\n'
        f'# The Disk Data Base\n#DDB\n\nddb.adapterType = "lsilogic"\n{more}'
    ).encode()


def padded(content: bytes, sectors: int | None = None) -> bytes:
    """Filled with zeros up to a whole sector, or to so many sectors."""
    return content.ljust(-(-len(content) // SECTOR) * SECTOR if sectors is None else sectors * SECTOR, b"\0")


def sparse(
    grains: Mapping[int, bytes | int], fields: Fields | None = None, about: bytes | None = None
) -> bytes:
    """A monolithicSparse file with the ``grains`` given by their number: bytes, or what the table says.

    The tables are before the grains, where ``fields`` says; the redundant ones, if any, tell of nothing.
    """
    fields = fields or Fields()
    about = description(fields.capacity) if about is None else about
    tables = -(-fields.capacity // (fields.grain * PER_TABLE))
    entries = [[0] * PER_TABLE for _ in range(tables)]
    data = b""
    for number, grain in sorted(grains.items()):
        place = fields.overhead + len(data) // SECTOR
        entries[number // PER_TABLE][number % PER_TABLE] = grain if isinstance(grain, int) else place
        data += b"" if isinstance(grain, int) else grain
    first = fields.directory + -(-4 * tables // SECTOR)
    head = padded(fields.pack() + about, fields.directory)
    head += padded(struct.pack(f"<{tables}I", *(first + 4 * number for number in range(tables))))
    head += b"".join(struct.pack("<512I", *table) for table in entries)
    return padded(head, fields.overhead) + data


class StreamFile:
    """A streamOptimized file, put together piece by piece; ``content`` is what there is of it."""

    def __init__(self, fields: Fields = STREAM, about: bytes | None = None) -> None:
        self.fields = fields
        self.about = description(fields.capacity, "streamOptimized") if about is None else about
        tables = -(-fields.capacity // (fields.grain * PER_TABLE))
        self.places: list[int] = [0] * tables
        self.entries: dict[int, list[int]] = {}
        self.content = bytearray(padded(fields.pack() + self.about, fields.overhead))

    @property
    def sector(self) -> int:
        return len(self.content) // SECTOR

    def add(self, content: bytes) -> StreamFile:
        self.content += padded(content)
        return self

    def marker(self, sectors: int, kind: int, size: int = 0) -> StreamFile:
        return self.add(struct.pack("<QII", sectors, size, kind))

    def grain(self, number: int, plain: bytes, lba: int | None = None, size: int | None = None) -> StreamFile:
        """``lba``, ``size``: what the marker says instead of what is right."""
        table = self.entries.setdefault(number // PER_TABLE, [0] * PER_TABLE)
        table[number % PER_TABLE] = self.sector
        stream = zlib.compress(plain)
        lba = number * self.fields.grain if lba is None else lba
        return self.add(struct.pack("<QI", lba, len(stream) if size is None else size) + stream)

    def table(self, number: int) -> StreamFile:
        self.marker(4, TABLE)
        self.places[number] = self.sector
        return self.add(struct.pack("<512I", *self.entries.get(number, [0] * PER_TABLE)))

    def tables(self, *, empty_too: bool = False) -> StreamFile:
        for number in range(len(self.places)):
            if empty_too or number in self.entries:
                self.table(number)
        return self

    def directory(self) -> StreamFile:
        self.marker(-(-4 * len(self.places) // SECTOR), DIRECTORY)
        self.directory_sector = self.sector
        return self.add(struct.pack(f"<{len(self.places)}I", *self.places))

    def footer(self, fields: Fields | None = None) -> StreamFile:
        self.marker(1, FOOTER)
        return self.add((fields or replace(self.fields, directory=self.directory_sector)).pack())

    def end(self) -> bytes:
        return bytes(self.marker(0, END).content)

    def close(self) -> bytes:
        return self.directory().footer().end()


def stream(grains: Mapping[int, bytes], fields: Fields = STREAM) -> bytes:
    """As VMware writes it: each table behind its grains."""
    file = StreamFile(fields)
    previous = None
    for number, plain in sorted(grains.items()):
        if previous is not None and previous // PER_TABLE != number // PER_TABLE:
            file.table(previous // PER_TABLE)
        file.grain(number, plain)
        previous = number
    if previous is not None:
        file.table(previous // PER_TABLE)
    return file.close()


def stream_with_tables_at_end(
    grains: Mapping[int, bytes], fields: Fields = STREAM, *, empty_too: bool = False
) -> bytes:
    file = StreamFile(fields)
    for number, plain in sorted(grains.items()):
        file.grain(number, plain)
    return file.tables(empty_too=empty_too).close()


def stream_with_tables_first(
    grains: Mapping[int, bytes], fields: Fields = STREAM, *, has_end: bool = False
) -> bytes:
    """As QEMU writes it: all tables before the grains, and no footer."""
    tables = -(-fields.capacity // (fields.grain * PER_TABLE))
    directory_sectors = -(-4 * tables // SECTOR)
    overhead = -(-(21 + directory_sectors + 4 * tables) // 128) * 128
    file = StreamFile(replace(fields, directory=21, overhead=overhead))
    for number, plain in sorted(grains.items()):
        file.grain(number, plain)
    first = 21 + directory_sectors
    content = padded(struct.pack(f"<{tables}I", *(first + 4 * number for number in range(tables))))
    for number in range(tables):
        content += struct.pack("<512I", *file.entries.get(number, [0] * PER_TABLE))
    file.content[21 * SECTOR : 21 * SECTOR + len(content)] = content
    return file.end() if has_end else bytes(file.content)


def sound_grains(chosen: random.Random, fields: Fields) -> dict[int, bytes]:
    """A few grains of all kinds of bytes, at any place of the disk."""
    count = -(-fields.capacity // fields.grain)
    length = fields.grain * SECTOR
    grains = {}
    for number in chosen.sample(range(count), min(count, chosen.randrange(6))):
        kinds = (text(length, number), noise(length, number), b"a" * length, bytes(length))
        grains[number] = chosen.choice(kinds)
    return grains


def sound_file(chosen: random.Random) -> bytes:
    """A small file that is right, of any kind that can be read."""
    capacity = chosen.choice([1, 9, 128, 500, 1200 * 8, 600 * 128])
    grain = chosen.choice([8, 32, 128])
    version = chosen.choice([1, 2, 3])
    flags = chosen.choice([NEWLINE, NEWLINE | ZERO_GRAINS, 0])
    plain = Fields(version=version, flags=flags, capacity=capacity, grain=grain)
    packed = replace(STREAM, version=version, flags=STREAM_FLAGS | flags, capacity=capacity, grain=grain)
    kind = chosen.choice(["sparse", "stream", "at end", "all at end", "first", "first, with end"])
    grains = sound_grains(chosen, plain)
    if kind == "sparse":
        return sparse(grains, plain)
    if kind == "stream":
        return stream(grains, packed)
    if kind.endswith("at end"):
        return stream_with_tables_at_end(grains, packed, empty_too=kind.startswith("all"))
    return stream_with_tables_first(grains, packed, has_end=kind.endswith("with end"))
