"""Files that clients on this machine hand over open, so that their bytes need not cross a socket.

A descriptor proves what its owner may read; the daemon opens nothing. It takes a descriptor under a token
of the client's choice, and the client names the token when it writes an upload. What could make a reader
wait for ever is kept out: only regular files of local file systems are taken.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import stat
from collections.abc import AsyncGenerator
from typing import Self

from imsd.chunks.decode_pool import DecodePool
from imsd.contract import InvalidRequest, LimitExceeded, NotFound

from .file_blocks import BLOCK_BYTES, FileBlocks, FileRange, Step, next_step

TOKEN_BYTES = 32

# A token is used at once, or its client is gone.
WAITING_SECONDS = 30.0
MAX_WAITING = 64

# What is taken of a file at once, unless parts of an upload are very small.
RANGE_BYTES = 16 << 20

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


class HandedFile:
    """An open file whose reads end, closed when the block is left; ``status`` is that of when it came."""

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self._fd = fd
        self.status = status

    @classmethod
    def examine(cls, fd: int) -> Self:
        """Take ``fd`` over, whatever happens. Raises InvalidRequest.

        Blocks, for ever on a file system whose server does not answer: to be called in a thread of its own.
        """
        try:
            _require_local(fd)
            return cls(fd, _readable(fd))
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    async def steps(self, offset: int, pool: DecodePool, part_bytes: int) -> AsyncGenerator[Step, None]:
        """The file's bytes from ``offset`` to its end, at most a quarter of ``part_bytes`` at once.

        Raises FailedPrecondition when the file is changed meanwhile.
        """
        blocks = FileBlocks(self._fd, self.status)
        range_bytes = min(RANGE_BYTES, part_bytes // 4 // BLOCK_BYTES * BLOCK_BYTES)
        while (step := await pool.run(next_step, blocks, offset, range_bytes)) is not None:
            yield step
            offset = step.end if isinstance(step, FileRange) else offset + _length(step)


class HandedFiles:
    """The files that wait for their uploads."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[HandedFile, asyncio.TimerHandle]] = {}

    def put(self, token: bytes, file: HandedFile) -> None:
        """Keep ``file``, or close it. Raises InvalidRequest, LimitExceeded."""
        try:
            if len(token) != TOKEN_BYTES:
                raise InvalidRequest(f"a token has {TOKEN_BYTES} bytes, not {len(token)}", field="file_token")
            if token in self._waiting:
                raise InvalidRequest("the token is in use", field="file_token", hint="choose 32 random bytes")
            if len(self._waiting) >= MAX_WAITING:
                raise LimitExceeded(f"{MAX_WAITING} files wait for their uploads")
        except BaseException:
            file.close()
            raise
        timer = asyncio.get_running_loop().call_later(WAITING_SECONDS, self._forget, token)
        self._waiting[token] = file, timer

    def take(self, token: bytes) -> HandedFile:
        """The file of a token, once. Raises NotFound (FILE_TOKEN_UNKNOWN)."""
        if (waiting := self._waiting.pop(token, None)) is None:
            raise NotFound(
                "no file was handed over under this token, or too long ago",
                reason="FILE_TOKEN_UNKNOWN",
                hint="hand it over again, or send its bytes",
            )
        file, timer = waiting
        timer.cancel()
        return file

    def close(self) -> None:
        """Close what waits."""
        for token in list(self._waiting):
            self._forget(token)

    def _forget(self, token: bytes) -> None:
        file, timer = self._waiting.pop(token)
        timer.cancel()
        file.close()


def _length(step: bytes | int) -> int:
    return step if isinstance(step, int) else len(step)


def _require_local(fd: int) -> None:
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
        raise _not_readable()
    if _file_system(fd) not in LOCAL_FILE_SYSTEMS:
        raise InvalidRequest("the file is on no local file system that is known", hint="send its bytes")


def _readable(fd: int) -> os.stat_result:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequest("only a regular file can be handed over", hint="send its bytes")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise _not_readable()
    return status


def _not_readable() -> InvalidRequest:
    return InvalidRequest("the file is not open for reading", hint="open it for reading")


def _file_system(fd: int) -> int:
    """The f_type of statfs(2), its first field."""
    answer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).fstatfs(fd, answer) != 0:
        raise OSError(ctypes.get_errno(), "fstatfs failed")
    return int.from_bytes(answer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF
