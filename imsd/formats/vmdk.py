"""VMDK in one file: reading monolithicSparse and streamOptimized at random access.

The redundant grain directory is never looked at. What a table says is checked where it is used; no place
of the file is read unless the disk needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from imsd.contract import ByteRange

from .cluster_codec import inflate_zlib_into
from .mapped_blocks import ABSENT, PACKED, MappedBlocks, PackedBlock, Places
from .page_cache import FileTable, PageCache, TableShape, TwoLevelTable, Words
from .raw import SECTOR_BYTES
from .reader import Finding, FormatReader, OpenedImage, binary_size
from .refusals import Refusals
from .source import ByteSource
from .vmdk_descriptor import MAX_TEXT_BYTES, check_embedded, refuse_bare
from .vmdk_layout import (
    ENTRY_BYTES,
    FOOTER_SECTORS,
    GRAIN_MARKER,
    MAGIC,
    OLD_ESX_MAGIC,
    REFUSALS,
    SE_SPARSE_MAGIC,
    TABLE_ENTRIES,
    TABLE_SECTORS,
    ZERO_GRAIN,
    Header,
    malformed,
    parse_footer,
    parse_header,
    truncated,
    unsupported,
)

# What is read first: the header and, in most files, the descriptor.
HEAD_BYTES = 32 << 10


class VmdkReader(FormatReader):
    name: ClassVar[str] = "vmdk"
    summary: ClassVar[str] = "VMware: monolithicSparse and streamOptimized"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        header = _read_header(source, max_virtual_size_bytes)
        return OpenedImage(self.name, VmdkBlocks(source, header), list(findings_of(header)), _variant(header))


class VmdkBlocks(MappedBlocks):
    """The disk of a sparse VMDK."""

    _refusals: ClassVar[Refusals] = REFUSALS

    def __init__(self, source: ByteSource, header: Header) -> None:
        super().__init__(source, header.size_bytes, header.grain_bytes)
        assert header.directory_sector is not None
        self._header = header
        cache = PageCache(source, "<u4")
        directory = FileTable(
            cache, ENTRY_BYTES, header.directory_sector * SECTOR_BYTES, header.directory_entries
        )
        shape = TableShape(ENTRY_BYTES, TABLE_ENTRIES)
        self._table = TwoLevelTable(directory, cache, shape, self._table_places)

    def _table_places(self, entries: Words) -> Words:
        last = self._source.size_bytes // SECTOR_BYTES - TABLE_SECTORS
        if np.any(entries > max(last, 0)):
            raise truncated(f"a grain table at sector {int(entries.max())} lies beyond its end")
        return entries * np.uint64(SECTOR_BYTES)

    def _grain_sectors(self, first: int, count: int) -> Words:
        """The sectors of grains, 0 where there is none."""
        entries = self._table.read(first, count)
        if self._header.has_zero_grains:
            entries = np.where(entries == ZERO_GRAIN, np.uint64(0), entries)
        if np.any((entries > 0) & (entries < self._header.first_data_sector)):
            raise malformed("a grain lies where the header and the tables are")
        return entries

    def _places(self, first: int, count: int) -> Places:
        entries = self._grain_sectors(first, count)
        if self._header.is_compressed:
            self._check_begins(entries * np.uint64(SECTOR_BYTES))
            return np.where(entries > 0, PACKED, ABSENT).astype(np.int64)
        return np.where(entries > 0, entries.astype(np.int64) * SECTOR_BYTES, ABSENT)

    def _absent_from(self, first: int, count: int) -> int:
        return self._table.absent_from(first, count)

    def _packed(self, blocks: Sequence[int]) -> Sequence[PackedBlock]:
        """How long a compressed grain is only its marker says: at most up to the next one, or the limit."""
        first = blocks[0]
        entries = self._grain_sectors(first, blocks[-1] - first + 1)[np.array(blocks) - first]
        starts = entries.astype(np.int64) * SECTOR_BYTES
        known = np.append(np.unique(starts), self._source.size_bytes)
        following = known[np.searchsorted(known, starts, "right")]
        ends = np.minimum(starts + GRAIN_MARKER.size + self._header.max_packed_bytes, following)
        return [
            PackedBlock(block * self._block_bytes, ByteRange(start, end - start))
            for block, start, end in zip(blocks, starts.tolist(), ends.tolist(), strict=True)
        ]

    def _expand(self, block: PackedBlock, content: memoryview, offset: int, buffer: memoryview) -> None:
        marker_bytes = GRAIN_MARKER.size
        if len(content) < marker_bytes:
            raise truncated(f"it ends inside the marker of the grain at {block.place.offset}")
        lba, size = GRAIN_MARKER.unpack_from(content)
        if lba * SECTOR_BYTES != block.guest:
            raise malformed(f"the grain at {block.place.offset} is marked as another one")
        check_packed_bytes(size, self._header)
        if marker_bytes + size > len(content):
            if block.place.end == self._source.size_bytes:
                raise truncated(f"it ends inside the compressed grain at {block.place.offset}")
            raise malformed(f"the compressed grain at {block.place.offset} reaches into the next one")
        super()._expand(block, content[marker_bytes : marker_bytes + size], offset, buffer)

    def _unpacked_bytes(self, guest: int) -> int:
        return min(self._block_bytes, self.size_bytes - guest)

    def _unpack_into(self, content: memoryview, out: memoryview) -> bool:
        return inflate_zlib_into(content, out)


def check_packed_bytes(size: int, header: Header) -> None:
    """``size``: what the marker of a compressed grain says. Raises ImageRefused (IMAGE_MALFORMED)."""
    if not 0 < size <= header.max_packed_bytes:
        raise malformed(f"a compressed grain of {size} bytes is outside 1 to {header.max_packed_bytes}")


def findings_of(header: Header) -> Iterator[Finding]:
    if header.is_dirty:
        yield Finding(
            "VMDK_NOT_CLOSED", "the file was not closed cleanly: the last writes to the disk may be missing"
        )


def _variant(header: Header) -> str:
    kind = "streamOptimized" if header.is_compressed else "monolithicSparse"
    return f"{kind}, version {header.version}, grains of {binary_size(header.grain_bytes)}"


def _read_header(source: ByteSource, max_virtual_size_bytes: int) -> Header:
    head = _read(source, 0, HEAD_BYTES)
    if head.startswith((OLD_ESX_MAGIC, SE_SPARSE_MAGIC)):
        raise unsupported("VMDK snapshots of ESX (COWD and SE sparse) cannot be read")
    if not head.startswith(MAGIC):
        raise refuse_bare(head)
    header = parse_header(head, max_virtual_size_bytes)
    at = header.descriptor_sector * SECTOR_BYTES
    length = min(header.descriptor_sectors * SECTOR_BYTES, MAX_TEXT_BYTES + 1)
    descriptor = head[at : at + length] if at + length <= len(head) else _read(source, at, length)
    if len(descriptor) < length:
        raise truncated(f"it ends inside its descriptor at {at}")
    check_embedded(descriptor, header)
    if header.directory_sector is None:
        header = _with_footer(source, header, max_virtual_size_bytes)
    _check_length(source.size_bytes, header)
    return header


def _with_footer(source: ByteSource, header: Header, max_virtual_size_bytes: int) -> Header:
    length = FOOTER_SECTORS * SECTOR_BYTES
    start = source.size_bytes - length
    if start < header.first_data_sector * SECTOR_BYTES or start % SECTOR_BYTES:
        raise truncated("it ends before its footer")
    return parse_footer(_read(source, start, length), header, max_virtual_size_bytes)


def _check_length(file_bytes: int, header: Header) -> None:
    assert header.directory_sector is not None
    end = header.directory_sector * SECTOR_BYTES + header.directory_bytes
    if end > file_bytes:
        raise truncated(f"its grain directory ends at {end}, the file at {file_bytes}")
    if header.first_data_sector * SECTOR_BYTES > file_bytes:
        raise truncated(f"it ends at {file_bytes}, before its first grain")


def _read(source: ByteSource, offset: int, length: int) -> bytes:
    """``length`` bytes, or those up to the end of the file."""
    place = ByteRange(offset, max(0, min(length, source.size_bytes - offset)))
    source.require([place])
    return bytes(source.read(place.offset, place.length))
