"""VHD: writing dynamic disks, front to back in one pass.

::

    footer's copy | header | table of blocks | blocks, each after the bitmap of its sectors | footer

The disk is rounded up to whole MiB, as Hyper-V wants it. The creator is `win `: programs that trust the
geometry more than the size make an exception of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from uuid import UUID, uuid4

import numpy as np

from imsd.contract import InvalidRequest

from .data_windows import DataWindows
from .framed_reads import reading
from .output import Output, Zeros
from .raw import SECTOR_BYTES, round_up
from .source import BlockSource
from .vhd_layout import (
    COOKIE,
    ENTRY_ABSENT,
    ENTRY_BYTES,
    FOOTER,
    FOOTER_BYTES,
    FOOTER_CHECKSUM_OFFSET,
    HEADER,
    HEADER_BYTES,
    HEADER_CHECKSUM_OFFSET,
    HEADER_COOKIE,
    MAX_SIZE_BYTES,
    NO_OFFSET,
    TYPE_DYNAMIC,
    VERSION,
    bitmap_bytes,
    checksum,
    geometry,
)
from .writer import FormatWriter, Piece

SIZE_UNIT_BYTES = 1 << 20
BLOCK_BYTES = 2 << 20
CREATOR, CREATOR_VERSION, CREATOR_SYSTEM = b"win ", 0x000A_0000, b"Wi2k"
FEATURES = 2  # a bit that is always set
TABLE_OFFSET = FOOTER_BYTES + HEADER_BYTES
BITMAP = b"\xff" * bitmap_bytes(BLOCK_BYTES)


class VhdWriter(FormatWriter):
    """``new_id`` gives the disk's UUID. The same disk and UUID give the same file, byte for byte.

    ``may_frame``: stored frames may be given out as they are.
    """

    def __init__(
        self, blocks: BlockSource, new_id: Callable[[], UUID] = uuid4, *, may_frame: bool = False
    ) -> None:
        """Raises InvalidRequest."""
        self._size_bytes = round_up(blocks.size_bytes, SIZE_UNIT_BYTES)
        if self._size_bytes > MAX_SIZE_BYTES:
            raise InvalidRequest(
                f"a disk of {blocks.size_bytes} bytes is larger than the {MAX_SIZE_BYTES} that vhd can hold",
                field="disk_format",
                hint="choose vhdx or qcow2",
            )
        self._read = reading(blocks, may_frame=may_frame)
        self._id = new_id()
        self._windows = DataWindows(blocks, BLOCK_BYTES)
        self._entries = -(-self._size_bytes // BLOCK_BYTES)
        self._table_bytes = round_up(ENTRY_BYTES * self._entries, SECTOR_BYTES)

    def measure(self) -> Iterator[Callable[[], None]]:
        return self._windows.scans()

    def file_size_bytes(self) -> int:
        blocks = len(self._windows.data_numbers()) * (len(BITMAP) + BLOCK_BYTES)
        return TABLE_OFFSET + self._table_bytes + blocks + FOOTER_BYTES

    def pieces(self) -> Iterator[Piece]:
        yield self._head
        yield self._table
        for start, length in self._windows.data():
            yield partial(self._block, start, length)
        yield self._footers

    def _head(self) -> Sequence[Output]:
        return [self._footer() + self._header()]

    def _footers(self) -> Sequence[Output]:
        return [self._footer()]

    def _table(self) -> Sequence[Output]:
        """The table; sectors that are not used stay absent."""
        numbers = self._windows.data_numbers()
        entries = np.full(self._table_bytes // ENTRY_BYTES, ENTRY_ABSENT, np.uint32)
        first = (TABLE_OFFSET + self._table_bytes) // SECTOR_BYTES
        entries[numbers] = first + np.arange(len(numbers)) * ((len(BITMAP) + BLOCK_BYTES) // SECTOR_BYTES)
        return [entries.astype(">u4").tobytes()]

    def _block(self, start: int, length: int) -> Sequence[Output]:
        outputs: list[Output] = [BITMAP, *self._read(start, length)]
        if length < BLOCK_BYTES:
            outputs.append(Zeros(BLOCK_BYTES - length))
        return outputs

    def _footer(self) -> bytes:
        fields = (
            *(COOKIE, FEATURES, VERSION, FOOTER_BYTES, 0),
            *(CREATOR, CREATOR_VERSION, CREATOR_SYSTEM, self._size_bytes, self._size_bytes),
            *(geometry(self._size_bytes), TYPE_DYNAMIC, 0, self._id.bytes, 0),
        )
        return _sealed(FOOTER.pack(*fields).ljust(FOOTER_BYTES, b"\0"), FOOTER_CHECKSUM_OFFSET)

    def _header(self) -> bytes:
        header = HEADER.pack(HEADER_COOKIE, NO_OFFSET, TABLE_OFFSET, VERSION, self._entries, BLOCK_BYTES, 0)
        return _sealed(header.ljust(HEADER_BYTES, b"\0"), HEADER_CHECKSUM_OFFSET)


def _sealed(content: bytes, place: int) -> bytes:
    """``content`` with its checksum."""
    return content[:place] + checksum(content, place).to_bytes(4, "big") + content[place + 4 :]
