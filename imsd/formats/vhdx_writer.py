"""VHDX: writing dynamic disks, front to back in one pass.

::

    identifier, headers, region tables | log, empty | metadata | BAT | blocks
    0                                    1 MiB        2 MiB      3 MiB

Blocks without data are entered as ZERO, the only state whose content is defined to be zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from uuid import UUID, uuid4

import numpy as np

from imsd.contract import InvalidRequest

from .data_windows import WINDOW_BYTES, DataWindows
from .framed_reads import reading
from .output import Output, Zeros
from .raw import SECTOR_BYTES, round_up
from .source import BlockSource
from .vhdx_layout import (
    BAT_ENTRY_BYTES,
    BAT_REGION,
    CHECKSUM,
    FULLY_PRESENT,
    HEADER,
    HEADER_BYTES,
    HEADER_OFFSETS,
    HEADER_SIGNATURE,
    LOG_VERSION,
    MAX_SIZE_BYTES,
    METADATA_REGION,
    MIB,
    NO_ID,
    REGION,
    REGION_REQUIRED,
    REGION_SIGNATURE,
    REGION_TABLE,
    REGION_TABLE_BYTES,
    REGION_TABLE_OFFSETS,
    SIGNATURE,
    VERSION,
    ZERO,
    crc,
)
from .vhdx_metadata import (
    FILE_PARAMETERS,
    ITEM,
    ITEM_IS_REQUIRED,
    ITEM_IS_VIRTUAL_DISK,
    LOGICAL_SECTOR,
    PHYSICAL_SECTOR,
    TABLE,
    TABLE_BYTES,
    TABLE_SIGNATURE,
    VIRTUAL_DISK_ID,
    VIRTUAL_SIZE,
    Disk,
)
from .writer import FormatWriter, Piece

CREATOR = "imsd"
LOG_OFFSET, LOG_BYTES = MIB, MIB
METADATA_OFFSET, METADATA_BYTES = 2 * MIB, MIB
BAT_OFFSET = 3 * MIB
PHYSICAL_SECTOR_BYTES = 4096

# Small blocks keep a sparse file small; large ones keep the BAT of a large disk below 20 MiB.
BLOCK_BYTES = 2 << 20
LARGE_DISK_BYTES = 2 << 40
LARGE_BLOCK_BYTES = 32 << 20

# Entries of the BAT that are rendered at once.
PART_ENTRIES = 1 << 19


class VhdxWriter(FormatWriter):
    """``new_id`` gives the UUIDs. The same disk and UUIDs give the same file, byte for byte.

    ``may_frame``: stored frames may be given out as they are.
    """

    def __init__(
        self, blocks: BlockSource, new_id: Callable[[], UUID] = uuid4, *, may_frame: bool = False
    ) -> None:
        """Raises InvalidRequest."""
        if blocks.size_bytes > MAX_SIZE_BYTES:
            raise InvalidRequest(
                f"a disk of {blocks.size_bytes} bytes is larger than the {MAX_SIZE_BYTES} that vhdx can hold",
                field="disk_format",
                hint="choose qcow2",
            )
        block_bytes = LARGE_BLOCK_BYTES if blocks.size_bytes > LARGE_DISK_BYTES else BLOCK_BYTES
        self._blocks = blocks
        self._read = reading(blocks, may_frame=may_frame)
        self._disk = Disk(blocks.size_bytes, block_bytes, SECTOR_BYTES)
        self._windows = DataWindows(blocks, block_bytes)
        self._file_write_id, self._data_write_id, self._disk_id = new_id(), new_id(), new_id()
        self._bat_bytes = round_up(BAT_ENTRY_BYTES * self._disk.bat_entries, MIB)

    def measure(self) -> Iterator[Callable[[], None]]:
        return self._windows.scans()

    def file_size_bytes(self) -> int:
        return BAT_OFFSET + self._bat_bytes + len(self._windows.data_numbers()) * self._disk.block_bytes

    def pieces(self) -> Iterator[Piece]:
        yield partial(_parts, self._head(), LOG_OFFSET)
        yield partial(_parts, [], LOG_BYTES)
        yield partial(_parts, self._metadata(), METADATA_BYTES)
        for first in range(0, self._bat_bytes // BAT_ENTRY_BYTES, PART_ENTRIES):
            yield partial(self._bat_part, first)
        for number in self._windows.data_numbers().tolist():
            for start in range(0, self._disk.block_bytes, WINDOW_BYTES):
                length = min(WINDOW_BYTES, self._disk.block_bytes - start)
                yield partial(self._block_part, number * self._disk.block_bytes + start, length)

    def _head(self) -> list[tuple[int, bytes]]:
        """Identifier, headers and region tables: (offset, content)."""
        parts = [(0, SIGNATURE + CREATOR.encode("utf-16-le"))]
        parts += [(offset, self._header(number)) for number, offset in enumerate(HEADER_OFFSETS, 1)]
        return parts + [(offset, self._region_table()) for offset in REGION_TABLE_OFFSETS]

    def _header(self, sequence: int) -> bytes:
        ids = (self._file_write_id.bytes_le, self._data_write_id.bytes_le, NO_ID)
        header = HEADER.pack(HEADER_SIGNATURE, 0, sequence, *ids, LOG_VERSION, VERSION, LOG_BYTES, LOG_OFFSET)
        return _sealed(header.ljust(HEADER_BYTES, b"\0"))

    def _region_table(self) -> bytes:
        table = REGION_TABLE.pack(REGION_SIGNATURE, 0, 2, 0)
        table += REGION.pack(BAT_REGION, BAT_OFFSET, self._bat_bytes, REGION_REQUIRED)
        table += REGION.pack(METADATA_REGION, METADATA_OFFSET, METADATA_BYTES, REGION_REQUIRED)
        return _sealed(table.ljust(REGION_TABLE_BYTES, b"\0"))

    def _metadata(self) -> list[tuple[int, bytes]]:
        """The table of items and the items: (offset, content)."""
        disk = ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK
        items = [
            (FILE_PARAMETERS, struct.pack("<II", self._disk.block_bytes, 0), ITEM_IS_REQUIRED),
            (VIRTUAL_SIZE, struct.pack("<Q", self._disk.size_bytes), disk),
            (VIRTUAL_DISK_ID, self._disk_id.bytes_le, disk),
            (LOGICAL_SECTOR, struct.pack("<I", self._disk.logical_sector_bytes), disk),
            (PHYSICAL_SECTOR, struct.pack("<I", PHYSICAL_SECTOR_BYTES), disk),
        ]
        table, content = TABLE.pack(TABLE_SIGNATURE, 0, len(items), bytes(20)), b""
        for identity, item, flags in items:
            table += ITEM.pack(identity, TABLE_BYTES + len(content), len(item), flags, 0)
            content += item
        return [(0, table), (TABLE_BYTES, content)]

    def _bat_part(self, first: int) -> Sequence[Output]:
        """Entries from number ``first`` on."""
        ratio = self._disk.chunk_ratio
        count = min(PART_ENTRIES, self._bat_bytes // BAT_ENTRY_BYTES - first)
        entries = np.zeros(count, np.uint64)
        numbers = np.arange(first, min(first + count, self._disk.bat_entries))
        is_payload = numbers % (ratio + 1) != ratio  # the others are for sector bitmaps, which there are none
        entries[: len(numbers)][is_payload] = ZERO
        used = self._windows.data_numbers()
        places = used + used // ratio - first
        offsets = BAT_OFFSET + self._bat_bytes + np.arange(len(used)) * self._disk.block_bytes
        is_here = (places >= 0) & (places < count)
        entries[places[is_here]] = offsets[is_here] | FULLY_PRESENT
        return [entries.astype("<u8").tobytes()]

    def _block_part(self, start: int, length: int) -> Sequence[Output]:
        """The disk's bytes from ``start``, and zeros where it ends before the block."""
        inside = max(0, min(length, self._blocks.size_bytes - start))
        outputs: list[Output] = list(self._read(start, inside)) if inside else []
        if inside < length:
            outputs.append(Zeros(length - inside))
        return outputs


def _parts(parts: Sequence[tuple[int, bytes]], length: int) -> Sequence[Output]:
    """(offset, content) in order, and zeros between them up to ``length`` bytes."""
    outputs: list[Output] = []
    position = 0
    for offset, content in [*parts, (length, b"")]:
        if position < offset:
            outputs.append(Zeros(offset - position))
        if content:
            outputs.append(content)
        position = offset + len(content)
    return outputs


def _sealed(content: bytes) -> bytes:
    """``content`` with its checksum."""
    return content[: CHECKSUM.start] + struct.pack("<I", crc(content)) + content[CHECKSUM.stop :]
