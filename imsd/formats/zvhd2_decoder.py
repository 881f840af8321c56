"""ZVHD2, decoded front to back while it arrives; index, bitmap and footer are compared with the records.

Of the records only two digests are kept: one of (offset, block, length), as the index has them, and one
of the block numbers, as the bitmap has them. A file whose records are not in the order of their blocks, or
whose index does not follow the end page, or whose bitmap does not follow the index, can only be read at
random; nothing is known to write such files.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .output import Packed
from .stream_decoder import Step, StreamedDisk
from .zvhd_codec import expand
from .zvhd_decoder import RecordDecoder
from .zvhd_layout import (
    BITMAP_SEGMENT_BYTES,
    BLOCK_BYTES,
    COOKIES,
    ENTRY_BYTES,
    INDEX_SEGMENT_BYTES,
    PAGE_BYTES,
    SEGMENT_ENTRIES,
    USED_BYTES,
    ZVHD2,
    Compression,
    Page,
    check_same_disk,
    check_tables,
    malformed,
    read_page,
    segments,
    truncated,
    undecodable,
)

ENTRY = struct.Struct("<QII")  # offset, block, length of a record
ENTRY_TYPE = np.dtype([("offset", "<u8"), ("block", "<u4"), ("length", "<u4")])
NUMBER = struct.Struct("<Q")

# What may lie between the bitmap and the footer; nobody but an extension of the format puts it there.
MAX_EXTENSION_BYTES = 1 << 30
# Of it, so much is passed over at once.
EXTENSION_UNIT_BYTES = 1 << 20

DIGEST_BYTES = hashlib.sha256().digest_size
NOTHING = bytes(DIGEST_BYTES)
# Of the records, of what index and bitmap say so far (entries, blocks), and where the records end; the last
# page that was passed follows.
MORE_STATE = struct.Struct(f"<{DIGEST_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}s{DIGEST_BYTES}sQ")


class Zvhd2Decoder(RecordDecoder):
    name: ClassVar[str] = ZVHD2

    def __init__(self, max_virtual_size_bytes: int) -> None:
        super().__init__(max_virtual_size_bytes)
        self._entries, self._blocks = NOTHING, NOTHING
        self._index_entries, self._bitmap_blocks = NOTHING, NOTHING
        self._tables_start = 0
        self._last_page = b""

    def finish(self, file_size_bytes: int) -> StreamedDisk:
        if self._page is None or file_size_bytes != self.position:
            raise truncated(ZVHD2, f"it ends at {file_size_bytes}, inside a page or record")
        if not self._last_page.startswith(COOKIES[ZVHD2]):
            raise truncated(ZVHD2, f"it ends at {file_size_bytes}, without its footer")
        footer = read_page(ZVHD2, self._last_page, self._limit)
        check_same_disk(ZVHD2, self._page, footer)
        check_tables(footer, file_size_bytes)
        tables = footer.tables
        index_end = self._tables_start + tables.index_bytes
        if tables.index_bytes and tables.index_position != self._tables_start:
            raise malformed(ZVHD2, "its index does not follow the end page")
        if tables.bitmap_position != index_end or tables.stored_blocks != self._records:
            raise malformed(ZVHD2, "its bitmap does not follow the index")
        return StreamedDisk(footer.size_bytes, self._findings())

    def _decode(self, payload: memoryview) -> bytes:
        assert self._page is not None
        plain = expand(self._page.compression, payload)
        if plain is None:
            raise undecodable(ZVHD2, self.position)
        return plain

    def _note(self, block: int, length: int) -> None:
        self._entries = _digest(self._entries, [ENTRY.pack(self.position, block, length)])
        self._blocks = _digest(self._blocks, [NUMBER.pack(block)])

    def _step_after_records(self, data: memoryview) -> Step:
        assert self._page is not None
        if not self._tables_start:
            self._tables_start = self.position
        index_end = self._tables_start + segments(self._entries_needed()) * INDEX_SEGMENT_BYTES
        bitmap_end = index_end + segments(self._page.blocks) * BITMAP_SEGMENT_BYTES
        if self.position < index_end:
            return self._step_index(data, index_end)
        if self.position < bitmap_end:
            return self._step_bitmap(data, bitmap_end, index_end)
        return self._step_pages(data, bitmap_end)

    def _step_index(self, data: memoryview, end: int) -> Step:
        if len(data) < INDEX_SEGMENT_BYTES:
            return Step(0)
        first = (self.position - self._tables_start) // ENTRY_BYTES
        entries = np.frombuffer(data[:INDEX_SEGMENT_BYTES], ENTRY_TYPE)
        self._index_entries = _digest(self._index_entries, self._used(entries, first))
        is_last = self.position + INDEX_SEGMENT_BYTES == end
        if is_last and self._index_entries != self._entries:
            raise malformed(ZVHD2, "its index and its records disagree")
        return Step(INDEX_SEGMENT_BYTES)

    def _entries_needed(self) -> int:
        assert self._page is not None
        return self._page.blocks if self._page.covers_zero_blocks else self._records

    def _used(self, entries: npt.NDArray[np.void], first: int) -> Iterator[bytes]:
        """The entries of stored blocks, from a segment whose first entry is number ``first``."""
        entries = entries[: max(0, self._entries_needed() - first)]
        assert self._page is not None
        if self._page.covers_zero_blocks:
            used = np.flatnonzero(entries["offset"])
            if np.any(entries["block"][used] != used + first):
                raise malformed(ZVHD2, "an entry of its index is not at the place of its block")
            entries = entries[used]
        return (entry.tobytes() for entry in entries)

    def _step_bitmap(self, data: memoryview, end: int, start: int) -> Step:
        if len(data) < BITMAP_SEGMENT_BYTES:
            return Step(0)
        bits = np.unpackbits(np.frombuffer(data[:BITMAP_SEGMENT_BYTES], np.uint8), bitorder="little")
        first = (self.position - start) // BITMAP_SEGMENT_BYTES * SEGMENT_ENTRIES
        blocks = (np.flatnonzero(bits) + first).tolist()
        self._bitmap_blocks = _digest(self._bitmap_blocks, map(NUMBER.pack, blocks))
        is_last = self.position + BITMAP_SEGMENT_BYTES == end
        if is_last and self._bitmap_blocks != self._blocks:
            raise malformed(ZVHD2, "its bitmap and its records disagree")
        return Step(BITMAP_SEGMENT_BYTES)

    def _step_pages(self, data: memoryview, start: int) -> Step:
        """Whole pages, the last of which so far may be the footer."""
        length = min(len(data), EXTENSION_UNIT_BYTES) // PAGE_BYTES * PAGE_BYTES
        if self.position + length > start + MAX_EXTENSION_BYTES + PAGE_BYTES:
            raise malformed(ZVHD2, f"more than {MAX_EXTENSION_BYTES} bytes follow its bitmap")
        if length:
            self._last_page = bytes(data[length - PAGE_BYTES :][:USED_BYTES])
        return Step(length)

    def _more_state(self) -> bytes:
        digests = (self._entries, self._blocks, self._index_entries, self._bitmap_blocks)
        return MORE_STATE.pack(*digests, self._tables_start) + self._last_page

    def _restore_more(self, state: bytes) -> None:
        if len(state) not in (MORE_STATE.size, MORE_STATE.size + USED_BYTES):
            raise ValueError("this is no state of a decoder")
        *digests, self._tables_start = MORE_STATE.unpack_from(state)
        self._entries, self._blocks, self._index_entries, self._bitmap_blocks = digests
        self._last_page = state[MORE_STATE.size :]


class Zvhd2RecordDecoder(Zvhd2Decoder):
    """Gives each record with the frames it came in, to be kept; its state is that of a `Zvhd2Decoder`."""

    def _kept(self, page: Page, block: int, plain: bytes, payload: memoryview) -> Packed:
        on_disk = self._on_disk(page, block, plain)
        is_whole = len(on_disk) == BLOCK_BYTES and page.compression == Compression.ZSTD
        return Packed(on_disk, bytes(payload) if is_whole else b"")


def _digest(before: bytes, items: Iterable[bytes]) -> bytes:
    """The digest of a row of items, from that of those before: it can be kept, a hash object cannot."""
    for item in items:
        before = hashlib.sha256(before + item).digest()
    return before
