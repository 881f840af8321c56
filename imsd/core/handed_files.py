"""Files that clients on this machine hand over open, so that their bytes need not cross a socket.

A descriptor proves what its owner may read; the daemon opens nothing. It takes a descriptor under a token
of the client's choice, and the client names the token when it writes an upload. What could make a reader
wait for ever is kept out: only regular files of local file systems are taken.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Self

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import (
    READING,
    FailedPrecondition,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    translate_os_errors,
)
from imsd.formats.source import BlockSource, Extent

TOKEN_BYTES = 32

# A token is used at once, or its client is gone.
WAITING_SECONDS = 30.0
MAX_WAITING = 64

# What is taken of a file at once; holes of this length are skipped rather than looked through.
RANGE_BYTES = 16 << 20
HOLE_BYTES = 1 << 20

SUBJECT = "the file that was handed over"

# The last bytes of a file that are no whole block are taken by themselves.
BLOCK_BYTES = 4096

# f_type of statfs(2): file systems on disks and in memory of this machine. Not among them are networks and
# FUSE, where a read may take for ever, and overlays, which may lie on top of these.
LOCAL_FILE_SYSTEMS = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x7366746E: "ntfs3",
    0x2011BAB0: "exfat",
    0x4D44: "vfat",
    0x9660: "iso9660",
}


class FileRange(NamedTuple):
    """Bytes ``start`` to ``end`` of an open file, ``data_bytes`` of them in no hole."""

    blocks: FileBlocks
    start: int
    end: int
    data_bytes: int


# The next bytes of a file: as they are, a number of zeros, or a range to be read.
Step = bytes | int | FileRange


class HandedFile:
    """An open file, closed when the block is left."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    async def steps(self, offset: int, pool: DecodePool) -> AsyncGenerator[Step, None]:
        """The file's bytes from ``offset`` to its end.

        Raises FailedPrecondition when the file is changed meanwhile.
        """
        blocks = FileBlocks(self._fd)
        while (step := await pool.run(_next_step, blocks, offset)) is not None:
            yield step
            offset = step.end if isinstance(step, FileRange) else offset + _length(step)


class FileBlocks(BlockSource):
    """The bytes of an open file up to its last whole block; what is a hole is asked for, not remembered."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._status = os.fstat(fd)
        self.file_bytes = self._status.st_size
        self.size_bytes = self.file_bytes // BLOCK_BYTES * BLOCK_BYTES

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        with translate_os_errors(SUBJECT, READING):
            return self._extents(start, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with translate_os_errors(SUBJECT, READING):
            self._read_into(offset, buffer)

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
                raise _changed()
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
            raise _changed()

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


class HandedFiles:
    """The files that wait for their uploads."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[int, asyncio.TimerHandle]] = {}

    def put(self, token: bytes, fd: int) -> None:
        """Take ``fd`` over, whatever happens. Raises InvalidRequest, LimitExceeded."""
        try:
            _check(token, fd)
            if token in self._waiting:
                raise InvalidRequest("the token is in use", field="file_token", hint="choose 32 random bytes")
            if len(self._waiting) >= MAX_WAITING:
                raise LimitExceeded(f"{MAX_WAITING} files wait for their uploads")
        except BaseException:
            os.close(fd)
            raise
        timer = asyncio.get_running_loop().call_later(WAITING_SECONDS, self._forget, token)
        self._waiting[token] = fd, timer

    def take(self, token: bytes) -> HandedFile:
        """The file of a token, once. Raises NotFound."""
        if (waiting := self._waiting.pop(token, None)) is None:
            raise NotFound(
                "no file was handed over under this token",
                hint="hand it over again, or send its bytes",
            )
        fd, timer = waiting
        timer.cancel()
        return HandedFile(fd)

    def close(self) -> None:
        """Close what waits."""
        for token in list(self._waiting):
            self._forget(token)

    def _forget(self, token: bytes) -> None:
        fd, timer = self._waiting.pop(token)
        timer.cancel()
        os.close(fd)


def _next_step(blocks: FileBlocks, position: int) -> Step | None:
    """What to take next of a file; None at its end. Blocks."""
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
        content = bytearray(min(block_end, blocks.file_bytes) - position)
        blocks.read_into(position, memoryview(content))
        return bytes(content)
    end = min(position // RANGE_BYTES * RANGE_BYTES + RANGE_BYTES, blocks.size_bytes)
    # So that the threads that read it next need not wait for the disk.
    os.posix_fadvise(blocks.fd, end, RANGE_BYTES, os.POSIX_FADV_WILLNEED)
    extents = blocks.extents(position, end - position)
    return FileRange(blocks, position, end, sum(each.length for each in extents if not each.is_zero))


def _length(step: bytes | int) -> int:
    return step if isinstance(step, int) else len(step)


def _changed() -> FailedPrecondition:
    return FailedPrecondition(
        "the file was changed while it was read", hint="stop whatever writes to it, then start again"
    )


def _check(token: bytes, fd: int) -> None:
    if len(token) != TOKEN_BYTES:
        raise InvalidRequest(f"a token has {TOKEN_BYTES} bytes, not {len(token)}", field="file_token")
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise InvalidRequest("only a regular file can be handed over", hint="send its bytes")
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_PATH or flags & os.O_ACCMODE == os.O_WRONLY:
        raise InvalidRequest("the file is not open for reading", hint="open it for reading")
    if _file_system(fd) not in LOCAL_FILE_SYSTEMS:
        raise InvalidRequest("the file is on no local file system that is known", hint="send its bytes")


def _file_system(fd: int) -> int:
    """The f_type of statfs(2), its first field."""
    answer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).fstatfs(fd, answer) != 0:
        raise OSError(ctypes.get_errno(), "fstatfs failed")
    return int.from_bytes(answer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF
