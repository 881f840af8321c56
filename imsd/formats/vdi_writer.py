"""VDI: writing dynamic files, front to back in one pass.

::

    header | map | zeros up to 1 MiB | blocks of 1 MiB, in the order of the disk

The map follows from the disk's extents, so that nothing is read to measure. Blocks that hold nothing but
zeros without being known to are stored.

VirtualBox tells files apart by their UUIDs and refuses two with the same one, so that each file gets its
own: but for these two UUIDs the same disk gives the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from functools import partial
from uuid import UUID, uuid4, uuid5

import numpy as np
import numpy.typing as npt

from imsd.contract import InvalidRequest

from .data_windows import WINDOW_BYTES, DataWindows
from .framed_reads import reading
from .output import Output, Zeros, only_zeros
from .raw import SECTOR_BYTES, round_up
from .source import BlockSource
from .vdi_layout import (
    BLOCK_BYTES,
    ENTRY_ABSENT,
    ENTRY_BYTES,
    HEADER,
    HEADER_BYTES,
    MAX_BLOCKS,
    MIN_COUNTED_BYTES,
    SIGNATURE,
    VERSION,
    Fields,
    Kind,
)
from .writer import FormatWriter, Piece

TEXT = b"<<< imsd Virtual Disk Image >>>\n"

# Entries of the map that are rendered at once: 4 MiB.
PART_ENTRIES = 1 << 20

HEADS, SECTORS, MAX_CYLINDERS = 255, 63, 16383


class VdiWriter(FormatWriter):
    """``identity``: the UUID of the file, a new one if it is None.

    ``may_frame``: stored frames may be given out as they are.
    """

    def __init__(self, blocks: BlockSource, identity: UUID | None = None, *, may_frame: bool = False) -> None:
        """Raises InvalidRequest if the disk is too large for a VDI file."""
        self._blocks = blocks
        self._read = reading(blocks, may_frame=may_frame)
        self._count = -(-blocks.size_bytes // BLOCK_BYTES)
        if self._count > MAX_BLOCKS:
            raise InvalidRequest(
                f"a disk of {blocks.size_bytes} bytes is too large for vdi",
                field="disk_format",
                hint="take vhdx or qcow2",
            )
        self._identity = identity or uuid4()
        self._windows = DataWindows(blocks, BLOCK_BYTES)
        self._data_offset = round_up(HEADER_BYTES + self._count * ENTRY_BYTES, BLOCK_BYTES)

    def measure(self) -> Iterator[Callable[[], None]]:
        return self._windows.scans()

    def file_size_bytes(self) -> int:
        return self._data_offset + self._windows.data_before(self._count) * BLOCK_BYTES

    def pieces(self) -> Iterator[Piece]:
        yield self._header
        for first in range(0, self._count, PART_ENTRIES):
            yield partial(self._map_part, first, min(PART_ENTRIES, self._count - first))
        map_end = HEADER_BYTES + self._count * ENTRY_BYTES
        if map_end < self._data_offset:
            yield partial(only_zeros, self._data_offset - map_end)
        for start, length in self._windows.data(WINDOW_BYTES):
            yield partial(self._data, start, length)

    def _header(self) -> Sequence[Output]:
        size = self._blocks.size_bytes
        cylinders = min(-(-size // (HEADS * SECTORS * SECTOR_BYTES)), MAX_CYLINDERS)
        fields = Fields(
            text=TEXT,
            signature=SIGNATURE,
            version=VERSION,
            header_bytes=MIN_COUNTED_BYTES,
            kind=Kind.DYNAMIC,
            flags=0,
            comment=b"",
            map_offset=HEADER_BYTES,
            data_offset=self._data_offset,
            cylinders=cylinders,
            heads=HEADS,
            sectors=SECTORS,
            sector_bytes=SECTOR_BYTES,
            unused=0,
            size=size,
            block_bytes=BLOCK_BYTES,
            block_extra_bytes=0,
            blocks=self._count,
            allocated_blocks=self._windows.data_before(self._count),
            identity=self._identity.bytes_le,
            change_identity=uuid5(self._identity, "change").bytes_le,
            link=bytes(16),
            parent_change=bytes(16),
        )
        return [HEADER.pack(*astuple(fields)).ljust(HEADER_BYTES, b"\0")]

    def _map_part(self, first: int, count: int) -> Sequence[Output]:
        has_data = self._windows.has_data(first, count)
        numbers: npt.NDArray[np.int64] = np.cumsum(has_data) + (self._windows.data_before(first) - 1)
        return [np.where(has_data, numbers, ENTRY_ABSENT).astype("<u4").tobytes()]

    def _data(self, start: int, length: int) -> Sequence[Output]:
        """Blocks of the disk, the last one filled up with zeros."""
        outputs: list[Output] = list(self._read(start, length))
        if padding := -length % BLOCK_BYTES:
            outputs.append(Zeros(padding))
        return outputs
