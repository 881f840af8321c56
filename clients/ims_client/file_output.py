"""Writing a file that comes in pieces: sparse, in several threads, visible only when whole."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import select
import stat
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import LocalFileFailed
from .frames import decode

# Pieces that may wait to be written: at most 1 MiB each from the daemon, 4 MiB from a local disk.
WRITE_BEHIND_MESSAGES = 4
# Frames are decoded where they are written, and a file may be written at several places at once.
WRITERS = 2
ZEROS = bytes(1 << 20)

# Called with the bytes that are done and those of the whole file, 0 when unknown.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes of a file from ``start``: ``content``, or zeros if that is None.

    ``is_framed``: the content is zstd frames that decode to them.
    """

    start: int
    length: int
    content: memoryview | None
    is_framed: bool = False

    def decoded(self) -> memoryview:
        """The bytes; see `frames.decode`. Raises `CallFailed` (DATA_LOSS)."""
        assert self.content is not None
        return decode(self.content, self.length) if self.is_framed else self.content


class PieceSource(Protocol):
    """A file that comes in pieces, in order. ``size_bytes``: of all of it, 0 while unknown."""

    @property
    def position(self) -> int:
        """Bytes that came so far."""

    @property
    def size_bytes(self) -> int: ...

    def pieces(self) -> AsyncIterator[Piece]:
        """The whole file, once."""


def ignore_progress(done: int, total: int) -> None:
    return None


async def write_file(
    source: PieceSource, path: Path, on_progress: OnProgress = ignore_progress, *, must_sync: bool = False
) -> None:
    """Write what comes to ``path``, which appears, or is replaced, only when the file is whole.

    Runs of zeros become holes. ``must_sync``: the file survives a power cut when this returns.
    Failed or cancelled, it leaves nothing behind. Raises what the source raises, `LocalFileFailed`.
    """
    path = _behind_links(path)
    part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            await _receive(source, _FileWriter(fd), on_progress)
            if must_sync:
                await asyncio.to_thread(os.fsync, fd)
        finally:
            os.close(fd)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LocalFileFailed(f"cannot write {path}: {error.strerror}", _room_hint(error)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


async def write_stream(source: PieceSource, fd: int, on_progress: OnProgress = ignore_progress) -> None:
    """Write what comes to ``fd``, a pipe for example, zeros included.

    Raises what the source raises, `BrokenPipeError` when nobody reads any more, `LocalFileFailed`.
    """
    try:
        await _receive(source, _StreamWriter(fd), on_progress)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalFileFailed(f"cannot write the output: {error.strerror}", _room_hint(error)) from error


def _behind_links(path: Path) -> Path:
    """What ``path`` points to: a link stays a link, its target is replaced."""
    return path.resolve()


class _FileWriter:
    """Writes pieces at their place, in any order; a piece of zeros need not be written."""

    threads = WRITERS

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, piece: Piece) -> None:
        if piece.content is None:
            return
        view, start = piece.decoded(), piece.start
        while view:  # pwrite(2) may be short
            written = os.pwrite(self._fd, view, start)
            view, start = view[written:], start + written

    def finish(self, size_bytes: int) -> None:
        os.ftruncate(self._fd, size_bytes)

    def interrupt(self) -> None:
        return None  # a disk does not keep a write waiting

    def close(self) -> None:
        return None  # the descriptor is somebody else's


class _StreamWriter:
    """Writes every byte; a pipe that nobody empties can be given up on, see `interrupt`."""

    threads = 1  # the pieces stay in order

    def __init__(self, fd: int) -> None:
        self._wake_read, self._wake_write = os.pipe()
        self._fd = fd
        self._own_fd = -1
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            # Opened anew, so that other users of the pipe do not see O_NONBLOCK.
            self._fd = self._own_fd = os.open(
                f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )

    def write(self, piece: Piece) -> None:
        if piece.content is not None:
            self._write_all(piece.decoded())
            return
        left = piece.length
        while left:
            length = min(left, len(ZEROS))
            self._write_all(memoryview(ZEROS)[:length])
            left -= length

    def finish(self, size_bytes: int) -> None:
        return None

    def interrupt(self) -> None:
        """Make a `write` that waits in another thread return."""
        os.write(self._wake_write, b"x")

    def close(self) -> None:
        for fd in (self._wake_read, self._wake_write, self._own_fd):
            if fd >= 0:
                os.close(fd)

    def _write_all(self, view: memoryview) -> None:
        while view:  # write(2) may be short
            interrupted, _, _ = select.select([self._wake_read], [self._fd], [])
            if interrupted:
                return
            with suppress(BlockingIOError):
                view = view[os.write(self._fd, view) :]


async def _receive(source: PieceSource, writer: _FileWriter | _StreamWriter, on_progress: OnProgress) -> None:
    """Receive and write at once: a few pieces wait in a thread for the disk."""
    pool = ThreadPoolExecutor(writer.threads, "imsd-write")
    behind: deque[Future[None]] = deque()
    try:
        async for piece in source.pieces():
            behind.append(pool.submit(writer.write, piece))
            while len(behind) > WRITE_BEHIND_MESSAGES or (behind and behind[0].done()):
                await _written(behind.popleft())
            on_progress(source.position, source.size_bytes)
        while behind:
            await _written(behind.popleft())
        writer.finish(source.position)
    except BaseException:
        writer.interrupt()
        raise
    finally:
        # What runs ends before the descriptor is closed; what waits never starts.
        pool.shutdown(cancel_futures=True)
        writer.close()


def _written(write: Future[None]) -> Awaitable[None]:
    return asyncio.wrap_future(write)


def _room_hint(error: OSError) -> str:
    return "make room, or write to another disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
