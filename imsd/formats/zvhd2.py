"""ZVHD2: reading at random, through its footer, bitmap and index.

The footer is the only page with the places of the tables; the header must describe the same disk, because
whoever reads the file front to back believes it. The bitmap is held whole, the index is read in pages on
demand, and what an entry says is checked where it is used, as is what a record says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from imsd.contract import ByteRange, ImageRefused

from .mapped_blocks import ABSENT, PACKED, MappedBlocks, PackedBlock, Places
from .page_cache import FileTable, PageCache, Words
from .reader import Finding, FormatReader, OpenedImage
from .source import ByteSource
from .zvhd_codec import expand
from .zvhd_layout import (
    BLOCK_BYTES,
    COOKIES,
    ENTRY_BYTES,
    MAX_PAYLOAD_BYTES,
    PAGE_BYTES,
    ZVHD2,
    Page,
    bytes_beyond,
    check_tables,
    malformed,
    payload_of,
    read_last_page,
    read_record_start,
    record_bytes,
    truncated,
)

Bits = npt.NDArray[np.uint8]

MAX_RECORD_BYTES = record_bytes(MAX_PAYLOAD_BYTES)
WORD_BYTES = 8
WORDS_PER_ENTRY = ENTRY_BYTES // WORD_BYTES


class Zvhd2Reader(FormatReader):
    name: ClassVar[str] = ZVHD2
    summary: ClassVar[str] = "compressed VHD with an index (zstd)"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        footer = read_last_page(self.name, source, max_virtual_size_bytes)
        check_tables(footer, source.size_bytes)
        blocks = Zvhd2Blocks(source, footer, _read_bitmap(source, footer))
        return OpenedImage(self.name, blocks, list(_findings(blocks, footer)))


class Zvhd2Blocks(MappedBlocks):
    """The disk of a ZVHD2 file. ``stored``: the bitmap, whole segments of it."""

    def __init__(self, source: ByteSource, footer: Page, stored: Bits) -> None:
        super().__init__(source, footer.size_bytes, BLOCK_BYTES)
        self._footer = footer
        self._stored = stored
        self._words = stored.view("<u8")
        # Stored blocks before each word of the bitmap.
        counts = np.bitwise_count(self._words)
        self._before = np.cumsum(counts, dtype=np.uint32) - counts
        tables = footer.tables
        words = tables.index_bytes // WORD_BYTES
        self._index = FileTable(PageCache(source, "<u8"), WORD_BYTES, tables.index_position, words)

    def _places(self, first: int, count: int) -> Places:
        low = first // 8
        bits = np.unpackbits(self._stored[low : -(-(first + count) // 8)], bitorder="little")
        is_stored = bits[first - low * 8 :][:count] != 0
        if self._footer.covers_zero_blocks and np.any((self._entries(first, count)[:, 0] != 0) != is_stored):
            raise _disagree()
        return np.where(is_stored, PACKED, ABSENT)

    def _packed(self, blocks: Sequence[int]) -> Sequence[PackedBlock]:
        numbers = np.array(blocks, np.int64)
        positions = numbers if self._footer.covers_zero_blocks else self._ranks(numbers)
        low, count = int(positions[0]), int(positions[-1] - positions[0]) + 1
        entries = self._entries(low, count)[positions - low]
        offsets, lengths = entries[:, 0], entries[:, 1] >> np.uint64(32)
        if np.any((entries[:, 1] & np.uint64(0xFFFF_FFFF)) != numbers.astype(np.uint64)):
            raise _disagree()
        if np.any(offsets % PAGE_BYTES) or np.any(lengths % PAGE_BYTES):
            raise malformed(ZVHD2, "a record is not made of whole pages")
        end = self._footer.tables.records_end
        if np.any((offsets < PAGE_BYTES) | (offsets > end - np.minimum(lengths, end))):
            raise malformed(ZVHD2, f"a record lies outside {PAGE_BYTES} to {end}")
        if np.any((lengths == 0) | (lengths > MAX_RECORD_BYTES)):
            raise malformed(ZVHD2, f"a record is not {PAGE_BYTES} to {MAX_RECORD_BYTES} bytes long")
        return [
            PackedBlock(block * BLOCK_BYTES, ByteRange(offset, length))
            for block, offset, length in zip(blocks, offsets.tolist(), lengths.tolist(), strict=True)
        ]

    def _entries(self, first: int, count: int) -> Words:
        """Entries of the index, a row each: the offset of a record; its block and, above it, its length."""
        return self._index.read(WORDS_PER_ENTRY * first, WORDS_PER_ENTRY * count).reshape(-1, WORDS_PER_ENTRY)

    def _ranks(self, blocks: Places) -> Places:
        """How many stored blocks come before each of ``blocks``."""
        words, bits = blocks // 64, (blocks % 64).astype(np.uint64)
        below = self._words[words] & ((np.uint64(1) << bits) - np.uint64(1))
        ranks: Places = self._before[words].astype(np.int64) + np.bitwise_count(below)
        return ranks

    def _expand(self, block: PackedBlock, content: memoryview, offset: int, buffer: memoryview) -> None:
        _, number = read_record_start(ZVHD2, content, block.place.offset)
        if number * BLOCK_BYTES != block.guest:
            raise malformed(
                ZVHD2, f"the record at {block.place.offset} is of another block than its index says"
            )
        payload = payload_of(ZVHD2, content, block.place.offset)
        super()._expand(block, payload, offset, buffer)

    def _unpack_into(self, content: memoryview, out: memoryview) -> bool:
        plain = expand(self._footer.compression, content)
        if plain is not None:
            out[:] = plain
        return plain is not None

    def whole_block(self, number: int) -> memoryview:
        """A stored block with what of it lies beyond the disk. Raises as `read_into`."""
        (packed,) = self._packed([number])
        self._source.require([packed.place])
        content = memoryview(self._source.read(packed.place.offset, packed.place.length))
        block = memoryview(bytearray(BLOCK_BYTES))
        self._expand(packed, content, packed.guest, block)
        return block

    def _truncated(self, what: str) -> ImageRefused:
        return truncated(ZVHD2, what)

    def _malformed(self, what: str) -> ImageRefused:
        return malformed(ZVHD2, what)


def _disagree() -> ImageRefused:
    return malformed(ZVHD2, "its index and its bitmap disagree")


def _read_bitmap(source: ByteSource, footer: Page) -> Bits:
    """The bitmap, once it and the end page have been checked."""
    tables = footer.tables
    cookie = COOKIES[ZVHD2]
    source.require(
        [
            ByteRange(tables.records_end, len(cookie)),
            ByteRange(tables.bitmap_position, tables.bitmap_bytes),
        ]
    )
    if bytes(source.read(tables.records_end, len(cookie))) != cookie:
        raise malformed(ZVHD2, f"no end page is at {tables.records_end}")
    bitmap = np.frombuffer(source.read(tables.bitmap_position, tables.bitmap_bytes), np.uint8)
    _check_bitmap(bitmap, footer)
    return bitmap.copy()


def _check_bitmap(bitmap: Bits, footer: Page) -> None:
    """It has as many blocks as the footer says, and only such as the disk has.

    Raises ImageRefused (IMAGE_MALFORMED).
    """
    if int(np.bitwise_count(bitmap).sum()) != footer.tables.stored_blocks:
        raise malformed(ZVHD2, "its bitmap has another number of stored blocks than its footer")
    whole, more = divmod(footer.blocks, 8)
    if np.any(bitmap[whole + bool(more) :]) or (more and bitmap[whole] >> more):
        raise malformed(ZVHD2, "its bitmap has blocks beyond the end of the disk")


def _findings(blocks: Zvhd2Blocks, footer: Page) -> Iterator[Finding]:
    last, inside = divmod(footer.size_bytes, BLOCK_BYTES)
    if not inside or blocks.extents(last * BLOCK_BYTES, inside)[0].is_zero:
        return
    if np.frombuffer(blocks.whole_block(last)[inside:], np.uint8).any():
        yield bytes_beyond(ZVHD2)
