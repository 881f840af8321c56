"""VMDK: writing streamOptimized version 3, front to back in one pass.

::

    header, descriptor | grains, table | grains, table | … | directory | footer | end of stream

Each grain that holds data is compressed for itself and starts at a sector. A table follows the grains it
tells of. How long a grain becomes is known when it is compressed, so the length of the file is known at
its end; each grain is read and compressed once.

Reference: VMware, Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np

from imsd.contract import Buffer, InvalidRequest

from .cluster_codec import zlib_small_stream, zlib_stream
from .data_windows import DataWindows
from .guest_clusters import GuestClusters
from .output import Output, Zeros, length_of, without_zeros
from .raw import SECTOR_BYTES
from .source import BlockSource
from .vmdk_layout import (
    COMPRESSION_DEFLATE,
    DIRECTORY_AT_END,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINE_DETECTION,
    GRAIN_MARKER,
    HEADER,
    MAGIC,
    MARKER,
    MAX_SECTOR,
    NEWLINES,
    TABLE_ENTRIES,
    TABLE_SECTORS,
    MarkerKind,
)
from .writer import FormatWriter, Piece

COMPRESS: Mapping[str, Callable[[Buffer], bytes]] = {"zlib": zlib_stream, "zlib-small": zlib_small_stream}
COMPRESSIONS = tuple(COMPRESS)

VERSION = 3
GRAIN_SECTORS = 128
GRAIN_BYTES = GRAIN_SECTORS * SECTOR_BYTES
DESCRIPTOR_SECTOR = 1
DESCRIPTOR_SECTORS = 20
OVERHEAD_SECTORS = 128

# The geometry that VMware gives a SCSI disk.
HEADS, TRACK_SECTORS, MAX_CYLINDERS = 255, 63, 65535

_DESCRIPTOR = """# Disk DescriptorFile
version=1
CID={content_id:08x}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "{file_name}"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{heads}"
ddb.geometry.sectors = "{track_sectors}"
ddb.adapterType = "lsilogic"
ddb.toolsVersion = "2147483647"
"""


class VmdkWriter(FormatWriter):
    """``compression``: one of `COMPRESSIONS`. ``content_id``: 32 bits that tell versions of a disk apart."""

    is_length_known: ClassVar[bool] = False

    def __init__(self, blocks: BlockSource, compression: str = "zlib", content_id: int | None = None) -> None:
        """Raises InvalidRequest."""
        if compression not in COMPRESS:
            raise InvalidRequest(f"vmdk has no compression {compression}", field="compression")
        self._compress = COMPRESS[compression]
        self._sectors = blocks.size_bytes // SECTOR_BYTES
        # Not all ones, which means that there is none.
        self._content_id = secrets.randbelow(0xFFFF_FFFE) if content_id is None else content_id
        self._grains = GuestClusters(blocks, GRAIN_BYTES)
        self._windows = DataWindows(blocks)
        self._sector = 0  # of the file, where what comes next lies
        self._table_number = -1
        self._table = np.zeros(TABLE_ENTRIES, "<u4")
        self._directory = np.zeros(-(-self._sectors // (GRAIN_SECTORS * TABLE_ENTRIES)), "<u4")

    def measure(self) -> Iterator[Callable[[], None]]:
        return self._windows.scans()

    def file_size_bytes(self) -> int:
        return self._sector * SECTOR_BYTES

    def pieces(self) -> Iterator[Piece]:
        for start, length in self._windows.data():
            yield partial(self._render, start // GRAIN_BYTES, -(-length // GRAIN_BYTES))

    def in_turn(self, outputs: Sequence[Output]) -> Sequence[Output]:
        """The grains of a piece, with the tables that are complete before them."""
        placed = self._opening()
        for grain in outputs:
            assert isinstance(grain, bytes)
            lba, _ = GRAIN_MARKER.unpack_from(grain)
            number, index = divmod(lba // GRAIN_SECTORS, TABLE_ENTRIES)
            if number != self._table_number:
                placed += self._complete_table()
                self._table_number = number
            if self._sector > MAX_SECTOR:
                raise InvalidRequest(
                    "the disk holds more data than a vmdk file can, which is 2 TiB",
                    field="disk_format",
                    hint="ask for qcow2 or raw",
                )
            self._table[index] = self._sector
            placed += self._put(grain)
        return placed

    def closing(self) -> Sequence[Output]:
        placed = [*self._opening(), *self._complete_table()]
        directory = self._directory.tobytes()
        directory += bytes(-len(directory) % SECTOR_BYTES)
        placed += self._put(_marker(len(directory) // SECTOR_BYTES, MarkerKind.DIRECTORY))
        directory_sector = self._sector
        placed += self._put(*without_zeros(memoryview(directory)))
        placed += self._put(_marker(1, MarkerKind.FOOTER), self._header(directory_sector))
        return [*placed, *self._put(_marker(0, MarkerKind.END_OF_STREAM))]

    def _render(self, first: int, count: int) -> Sequence[Output]:
        """Grains that hold data, each behind its marker and filled up to a whole sector."""
        return [self._packed(first + index, grain) for index, grain in self._grains.data(first, count)]

    def _packed(self, number: int, grain: memoryview) -> bytes:
        stream = self._compress(grain)
        marker = GRAIN_MARKER.pack(number * GRAIN_SECTORS, len(stream))
        return b"".join((marker, stream, bytes(-(len(marker) + len(stream)) % SECTOR_BYTES)))

    def _put(self, *outputs: Output) -> Sequence[Output]:
        """``outputs``, whole sectors, come next."""
        self._sector += sum(map(length_of, outputs)) // SECTOR_BYTES
        return outputs

    def _opening(self) -> list[Output]:
        if self._sector:
            return []
        descriptor = self._descriptor().ljust(DESCRIPTOR_SECTORS * SECTOR_BYTES, b"\0")
        start = self._header(DIRECTORY_AT_END) + descriptor
        return list(self._put(start, Zeros(OVERHEAD_SECTORS * SECTOR_BYTES - len(start))))

    def _complete_table(self) -> Sequence[Output]:
        """The table of the grains that came last, if any."""
        if self._table_number < 0:
            return ()
        marker = self._put(_marker(TABLE_SECTORS, MarkerKind.TABLE))
        self._directory[self._table_number] = self._sector
        table = self._put(self._table.tobytes())
        self._table[:] = 0
        self._table_number = -1
        return [*marker, *table]

    def _header(self, directory_sector: int) -> bytes:
        return HEADER.pack(
            MAGIC,
            VERSION,
            FLAG_NEWLINE_DETECTION | FLAG_COMPRESSED | FLAG_MARKERS,
            self._sectors,
            GRAIN_SECTORS,
            DESCRIPTOR_SECTOR,
            DESCRIPTOR_SECTORS,
            TABLE_ENTRIES,
            0,
            directory_sector,
            OVERHEAD_SECTORS,
            0,
            NEWLINES,
            COMPRESSION_DEFLATE,
        ).ljust(SECTOR_BYTES, b"\0")

    def _descriptor(self) -> bytes:
        return _DESCRIPTOR.format(
            content_id=self._content_id,
            sectors=self._sectors,
            file_name="disk.vmdk",
            cylinders=min(-(-self._sectors // (HEADS * TRACK_SECTORS)), MAX_CYLINDERS),
            heads=HEADS,
            track_sectors=TRACK_SECTORS,
        ).encode("ascii")


def _marker(sectors: int, kind: MarkerKind) -> bytes:
    return MARKER.pack(sectors, 0, kind).ljust(SECTOR_BYTES, b"\0")
