"""The bytes of an open file on this machine: which of them to take next, and reading them, in any thread."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import READING, ByteRange, FailedPrecondition, translate_os_errors
from imsd.formats.source import BlockSource, Extent

from .limits import MAX_WRITE_BYTES

# Holes of this length are skipped rather than looked through.
HOLE_BYTES = 1 << 20

# The last bytes of a file that are no whole block are taken by themselves.
BLOCK_BYTES = 4096

SUBJECT = "the file that is read"


class FileRange(NamedTuple):
    """Bytes ``start`` to ``end`` of an open file, ``data_bytes`` of them in no hole."""

    blocks: FileBlocks
    start: int
    end: int
    data_bytes: int


# The next bytes of a file: as they are, a number of zeros, or a range to be read.
Step = bytes | int | FileRange


class FileBlocks(BlockSource):
    """The bytes of an open file up to its last whole block; what is a hole is asked for, not remembered.

    ``status`` is what `os.fstat` said before anything was read. Whoever writes to the file later changes
    that, so a read after which it is the same has read what was there then.
    """

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self.fd = fd
        self._status = status
        self.file_bytes = status.st_size
        self.size_bytes = self.file_bytes // BLOCK_BYTES * BLOCK_BYTES

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """Device, inode, size and time of the last change (ns): the same for the same unchanged file."""
        status = self._status
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        with translate_os_errors(SUBJECT, READING):
            return self._extents(start, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """As of every source; raises FailedPrecondition when the file is not what it was."""
        with translate_os_errors(SUBJECT, READING):
            self._read_into(offset, buffer)
            self.check_unchanged()

    def content(self, start: int, length: int) -> memoryview:
        """The bytes from ``start`` on, in memory of their own. Raises as `read_into`."""
        content = np.empty(length, np.uint8).data
        self.read_into(start, content)
        return content

    def data_ranges(self) -> Iterator[ByteRange]:
        """What is in no hole, to the last byte of the file, looked for one by one.

        Raises FailedPrecondition when the file is not what it was: what was a hole may hold data now.
        """
        position = 0
        with translate_os_errors(SUBJECT, READING):
            while (start := self._next_data(position)) < self.file_bytes:
                position = min(max(self._next_hole(start), start + 1), self.file_bytes)
                yield ByteRange(start, position - start)
            self.check_unchanged()

    def _extents(self, start: int, length: int) -> Sequence[Extent]:
        found: list[Extent] = []
        position, end = start, start + length
        while position < end:
            data = min(self._next_data(position), end)
            if position < data:
                found.append(Extent(position, data - position, is_zero=True))
            if data == end:
                break
            position = min(max(self._next_hole(data), data + 1), end)
            found.append(Extent(data, position - data, is_zero=False))
        return found

    def _read_into(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.preadv(self.fd, [buffer], offset)
            if not count:
                raise changed()
            buffer, offset = buffer[count:], offset + count

    def _next_hole(self, offset: int) -> int:
        try:
            return os.lseek(self.fd, offset, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # the file is shorter by now
                raise
            return self.file_bytes

    def check_unchanged(self) -> None:
        """Raises FailedPrecondition when somebody wrote to the file since it was handed over."""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.file_bytes, self._status.st_mtime_ns):
            raise changed()

    def next_data(self, offset: int) -> int:
        """Where the next byte lies that is in no hole; the end of the file if there is none."""
        with translate_os_errors(SUBJECT, READING):
            return self._next_data(offset)

    def _next_data(self, offset: int) -> int:
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return max(self.file_bytes, offset)


def next_step(blocks: FileBlocks, position: int, range_bytes: int) -> Step | None:
    """What to take next of a file, at most ``range_bytes`` of data; None at its end. Blocks.

    Raises FailedPrecondition when the file is not what it was.
    """
    blocks.check_unchanged()
    if position >= blocks.file_bytes:
        return None
    data = min(blocks.next_data(position), blocks.file_bytes)
    if data == blocks.file_bytes:
        return data - position
    hole = data // BLOCK_BYTES * BLOCK_BYTES - position  # some file systems have smaller blocks
    if hole >= HOLE_BYTES:
        return hole
    if position >= blocks.size_bytes or position % BLOCK_BYTES:
        block_end = position // BLOCK_BYTES * BLOCK_BYTES + BLOCK_BYTES
        return bytes(blocks.content(position, min(block_end, blocks.file_bytes) - position))
    end = min(position // range_bytes * range_bytes + range_bytes, blocks.size_bytes)
    # So that the threads that read it next need not wait for the disk.
    os.posix_fadvise(blocks.fd, end, range_bytes, os.POSIX_FADV_WILLNEED)
    extents = blocks.extents(position, end - position)
    return FileRange(blocks, position, end, sum(each.length for each in extents if not each.is_zero))


async def file_pieces(pool: DecodePool, range_: FileRange) -> AsyncIterator[memoryview | int]:
    """What lies in a range: bytes, at most `MAX_WRITE_BYTES` at once, and numbers of zeros."""
    for extent in await pool.run(range_.blocks.extents, range_.start, range_.end - range_.start):
        if extent.is_zero:
            yield extent.length
            continue
        for start in range(extent.start, extent.end, MAX_WRITE_BYTES):
            length = min(MAX_WRITE_BYTES, extent.end - start)
            yield await pool.run(range_.blocks.content, start, length)


def changed() -> FailedPrecondition:
    """The file is not what it was."""
    return FailedPrecondition(
        "the file was changed while it was read", hint="stop whatever writes to it, then start again"
    )
