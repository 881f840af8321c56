"""RAW: the file's bytes are the disk.

RAW is what remains when a file carries no signature at all, so `imsd.formats.detect` decides whether
this reader is asked; a file that only claims to be RAW never gets here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from imsd.contract import ByteRange, ImageRefused

from .reader import Finding, FormatReader, OpenedImage
from .source import BlockSource, ByteSource, Extent
from .tar_members import is_tar

SECTOR_BYTES = 512

# Holes of a file count as zero extents from this length on, at this alignment: shorter ones only cost
# memory (a hostile file may be all short holes) and are read as data.
MIN_HOLE_BYTES = 64 << 10
HOLE_ALIGNMENT = 4096

# Files that somebody compressed and forgot: a disk never starts like this.
COMPRESSED_STARTS = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}


# Files that hold a disk, or files, in a form that cannot be read here.
FOREIGN_STARTS: Mapping[str, Callable[[bytes], bool]] = {
    "a disk of Parallels": lambda head: head.startswith((b"WithoutFreeSpace", b"WithouFreSpacExt")),
    "a tar archive": is_tar,
}


class RawBlocks(BlockSource):
    """The disk of a file that is its own disk, rounded up to a whole sector with zeros."""

    def __init__(self, source: ByteSource) -> None:
        self.size_bytes = round_up(source.size_bytes, SECTOR_BYTES)
        self._source = source
        self._data = list(_worthwhile(source.data_ranges()))
        self._ends = [data.end for data in self._data]

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        found: list[Extent] = []
        position, end = start, start + length
        index = bisect_right(self._ends, position)
        while position < end:
            data = self._data[index] if index < len(self._data) else ByteRange(self.size_bytes, 0)
            is_zero = position < data.offset
            stop = min(end, data.offset if is_zero else data.end)
            found.append(Extent(position, stop - position, is_zero))
            index += not is_zero
            position = stop
        return found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        inside = max(0, min(len(buffer), self._source.size_bytes - offset))
        if inside:
            self._source.require([ByteRange(offset, inside)])
            self._source.read_into(offset, buffer[:inside])
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)


class RawReader(FormatReader):
    name: ClassVar[str] = "raw"
    summary: ClassVar[str] = "the disk's bytes as they are"
    is_streamable: ClassVar[bool] = True

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        blocks = open_blocks(source, max_virtual_size_bytes)
        return OpenedImage(self.name, blocks, [*_size_findings(source), *_start_findings(source)])


def open_blocks(source: ByteSource, max_virtual_size_bytes: int) -> RawBlocks:
    """Raises ImageRefused (IMAGE_EMPTY, IMAGE_TOO_LARGE)."""
    if not source.size_bytes:
        raise ImageRefused("the file is empty", reason="IMAGE_EMPTY", hint="send a file that holds a disk")
    check_virtual_size(round_up(source.size_bytes, SECTOR_BYTES), max_virtual_size_bytes)
    return RawBlocks(source)


def check_virtual_size(size_bytes: int, max_virtual_size_bytes: int) -> None:
    """Raises ImageRefused (IMAGE_TOO_LARGE)."""
    if size_bytes > max_virtual_size_bytes:
        raise ImageRefused(
            f"the disk has {size_bytes} bytes, more than the {max_virtual_size_bytes} that are accepted",
            reason="IMAGE_TOO_LARGE",
            hint="shrink the disk, or ask the operator to raise max_virtual_size_bytes",
        )


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _size_findings(source: ByteSource) -> Iterator[Finding]:
    if tail := source.size_bytes % SECTOR_BYTES:
        yield Finding(
            "RAW_SIZE_ROUNDED_UP",
            f"the file ends {tail} bytes into a sector; the disk goes on with zeros to the sector's end",
        )


def _start_findings(source: ByteSource) -> Iterator[Finding]:
    length = min(source.size_bytes, SECTOR_BYTES)
    source.require([ByteRange(0, length)])
    head = bytes(source.read(0, length))
    for start, program in COMPRESSED_STARTS.items():
        if head.startswith(start):
            yield Finding(
                "RAW_LOOKS_COMPRESSED",
                f"the file starts like one of {program}: it was taken for a disk as it is, not unpacked",
            )
    for kind, starts_so in FOREIGN_STARTS.items():
        if starts_so(head):
            yield Finding(
                "RAW_LOOKS_FOREIGN",
                f"the file starts like {kind}: its bytes were taken for a disk as they are",
            )


def _worthwhile(ranges: Iterator[ByteRange]) -> Iterator[ByteRange]:
    """``ranges`` aligned outwards, those with only a short hole between them as one."""
    start = end = -1
    for data in ranges:
        first = data.offset // HOLE_ALIGNMENT * HOLE_ALIGNMENT
        if end >= 0 and first < end + MIN_HOLE_BYTES:
            end = max(end, round_up(data.end, HOLE_ALIGNMENT))
            continue
        if end >= 0:
            yield ByteRange(start, end - start)
        start, end = first, round_up(data.end, HOLE_ALIGNMENT)
    if end >= 0:
        yield ByteRange(start, end - start)
