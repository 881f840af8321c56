"""Where bytes come from: `ByteSource`, the bytes of a file, and `BlockSource`, the blocks of a disk.

`BlockSource` is the one idea to understand: a virtual disk as guest-order blocks. A file in any
format, a stored image and a test are all block sources; everything else composes.

Both are synchronous and thread-safe, and run only in the bounded decode pool. They never wait: bytes
that are not at hand raise `NeedBytes`, the coroutine that drives the work fetches them and calls
again. (Waiting inside pool threads deadlocks: the waiting readers starve those who would feed them.)
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import numpy as np

from imsd.contract import ByteRange, ImageRefused

from .output import PlainOutput, without_zeros


class NeedBytes(Exception):
    """``source`` lacks ``ranges``: fetch them and call again."""

    def __init__(self, source: FetchedSource, ranges: Sequence[ByteRange]) -> None:
        super().__init__(f"{len(ranges)} byte ranges are not at hand")
        self.source = source
        self.ranges = ranges


class ByteSource(ABC):
    """The bytes of one file, at random access."""

    size_bytes: int

    def require(self, ranges: Sequence[ByteRange]) -> None:
        """Say what the next reads will touch, so that it is fetched at once.

        Raises `NeedBytes` with all that is missing. A source that always has its bytes does nothing.
        """
        return None

    @abstractmethod
    def _read(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset``, inside the file. May raise `NeedBytes`."""

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset``; a range beyond the end is refused as truncated.

        Raises ImageRefused (IMAGE_TRUNCATED), `NeedBytes`.
        """
        self._check(offset, length)
        return self._read(offset, length) if length else b""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset``. Raises as `read`."""
        buffer[:] = self.read(offset, len(buffer))

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ImageRefused(
                f"the file ends at byte {self.size_bytes}, but refers to bytes {offset} to {offset + length}",
                reason="IMAGE_TRUNCATED",
                hint="the file is cut short or damaged: copy it again from its origin",
            )

    def data_ranges(self) -> Iterator[ByteRange]:
        """The parts of the file that may hold other bytes than zeros, in order and apart from each other.

        All of the file unless the source knows better. Needs no byte of it: never raises `NeedBytes`.
        """
        if self.size_bytes:
            yield ByteRange(0, self.size_bytes)


class FetchedSource(ByteSource):
    """A file whose bytes are elsewhere: reads raise `NeedBytes` until a coroutine has fetched them."""

    @abstractmethod
    def fetching(self, ranges: Sequence[ByteRange]) -> AbstractAsyncContextManager[None]:
        """Fetch ``ranges`` and keep them at hand until the block is left.

        Raises DataLoss, Unavailable (the store), ImageRefused.
        """


class MemorySource(ByteSource):
    """A file in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self.size_bytes = len(content)

    def _read(self, offset: int, length: int) -> memoryview:
        return self._content[offset : offset + length]


class FileSource(ByteSource):
    """A local file or block device behind a descriptor that somebody else opened and closes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size_bytes = os.lseek(fd, 0, os.SEEK_END)  # a block device has no st_size

    def _read(self, offset: int, length: int) -> bytes:
        pieces = []
        while length:
            piece = os.pread(self._fd, length, offset)
            if not piece:
                raise _shrunk()
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        while buffer:
            count = os.preadv(self._fd, [buffer], offset)
            if not count:
                raise _shrunk()
            offset += count
            buffer = buffer[count:]

    def data_ranges(self) -> Iterator[ByteRange]:
        """What the file system has allocated, in order; holes lie between (SEEK_DATA, SEEK_HOLE)."""
        position = 0
        while position < self.size_bytes:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                    yield ByteRange(position, self.size_bytes - position)
                return
            position = min(os.lseek(self._fd, start, os.SEEK_HOLE), self.size_bytes)
            if start < position:
                yield ByteRange(start, position - start)


class PartSource(ByteSource):
    """``length`` bytes of another file from ``start``, all of them inside it, as a file of their own."""

    def __init__(self, source: ByteSource, start: int, length: int) -> None:
        self._source = source
        self._start = start
        self.size_bytes = length

    def require(self, ranges: Sequence[ByteRange]) -> None:
        self._source.require([ByteRange(self._start + wanted.offset, wanted.length) for wanted in ranges])

    def _read(self, offset: int, length: int) -> bytes | memoryview:
        return self._source.read(self._start + offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        self._source.read_into(self._start + offset, buffer)

    def data_ranges(self) -> Iterator[ByteRange]:
        end = self._start + self.size_bytes
        for data in self._source.data_ranges():
            if data.offset >= end:
                return
            first, last = max(data.offset, self._start), min(data.end, end)
            if first < last:
                yield ByteRange(first - self._start, last - first)


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes of a disk from ``start``; ``is_zero``: known to read as zeros."""

    start: int
    length: int
    is_zero: bool

    @property
    def end(self) -> int:
        return self.start + self.length


class BlockSource(ABC):
    """A virtual disk as guest-order blocks. ``size_bytes`` is a multiple of 512."""

    size_bytes: int

    @abstractmethod
    def extents(self, start: int, length: int) -> Sequence[Extent]:
        """Data and zero extents that cover the range exactly, in order; neighbours may be alike.

        An extent that is not ``is_zero`` may still hold zeros. Raises `NeedBytes`, `ImageRefused`.
        """

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the disk's bytes from ``offset``. Raises `NeedBytes`, `ImageRefused`.

        The buffer's content is undefined after an exception.
        """

    def read(self, start: int, length: int) -> Sequence[PlainOutput]:
        """The bytes from ``start``, best 1 to 4 MiB of them, with long runs of zeros told as such.

        Raises as `read_into`.
        """
        buffer = np.empty(length, np.uint8).data
        self.read_into(start, buffer)
        return list(without_zeros(buffer))


@dataclass(frozen=True, slots=True)
class Frame:
    """One stored piece of a disk as it lies in the store.

    ``frame`` is one zstd frame with content size and checksum, or for a piece that was kept as it came any
    number of frames with content sizes; it decodes to ``length`` bytes at ``start``. None when the piece is
    stored another way and must be read through `read_into`.
    """

    start: int
    length: int
    frame: bytes | memoryview | None


class FrameSource(BlockSource):
    """A disk whose stored zstd frames can travel verbatim into a compressed file."""

    @abstractmethod
    def frame_table(self, start: int, length: int) -> Sequence[tuple[int, int, int]]:
        """(start, length, stored bytes) of the pieces that touch the range, in order.

        Stored bytes is 0 for a piece without a frame. What no piece covers is zero.
        Raises `NeedBytes`.
        """

    @abstractmethod
    def require(self, pieces: Sequence[tuple[int, int]]) -> None:
        """Say which pieces (start, length), in order, will be read next, so that they are fetched at once.

        Raises `NeedBytes` with all that is missing.
        """

    @abstractmethod
    def frames(self, start: int, length: int) -> Sequence[Frame]:
        """The pieces that touch the range, in order, with their bytes. Raises `NeedBytes`."""


def _shrunk() -> ImageRefused:
    return ImageRefused(
        "the file shrank while it was read",
        reason="IMAGE_TRUNCATED",
        hint="send it again when nothing writes to it any more",
    )
