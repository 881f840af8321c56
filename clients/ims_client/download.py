"""Receiving a download: checked for completeness, written sparse, visible only when whole."""

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

from imsd.v1 import image_pb2 as pb
from imsd.wire import ReceivedBytes

from .errors import CallFailed, LocalFileFailed, damaged_download
from .frames import decode
from .images import ImageCalls

# Messages that may wait to be written: at most 1 MiB each.
WRITE_BEHIND_MESSAGES = 4
# Frames are decoded where they are written, and a file may be written at several places at once.
WRITERS = 2
ZEROS = bytes(1 << 20)

Header = pb.DownloadImageResponse.Header


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes of a download from ``start``: ``content``, or zeros if that is None.

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


class Download:
    """The bytes of one download, in order.

    ``header`` is there after the first piece, or after the end of an empty file.
    """

    def __init__(
        self,
        images: ImageCalls,
        image_id: str,
        disk_format: pb.DiskFormat.ValueType = pb.DISK_FORMAT_UNSPECIFIED,
        compression: pb.Compression.ValueType = pb.COMPRESSION_UNSPECIFIED,
    ) -> None:
        self._messages = images.download(image_id, disk_format, compression)
        self.header = Header()
        self.position = 0

    async def pieces(self) -> AsyncIterator[Piece]:
        """The whole file, once. Raises `CallFailed`; what came before an error is worthless."""
        async for message in self._messages:
            if (piece := self._piece(message)) is not None:
                if not 0 <= piece.length <= self.header.file_size_bytes - self.position:
                    raise damaged_download(f"{piece.length} bytes are announced where they cannot be")
                self.position += piece.length
                yield piece
                continue
            assert isinstance(message, pb.DownloadImageResponse)
            step = message.WhichOneof("step")
            if step == "header":
                self.header = message.header
            elif step == "complete":
                self._check(message.complete.file_size_bytes)
                return
        raise CallFailed("UNAVAILABLE", "the download was cut off", "start it again")

    def _piece(self, message: pb.DownloadImageResponse | ReceivedBytes) -> Piece | None:
        """The piece that a message is, None for one that is none."""
        if isinstance(message, pb.DownloadImageResponse):
            step = message.WhichOneof("step")
            if step == "zero_length":
                return Piece(self.position, message.zero_length, None)
            if step != "data":
                return None
            message = ReceivedBytes(memoryview(message.data), message.decoded_length)
        length = message.decoded_length or len(message.content)
        return Piece(self.position, length, message.content, is_framed=message.decoded_length != 0)

    def _check(self, sent_bytes: int) -> None:
        if not self.position == sent_bytes == self.header.file_size_bytes:
            raise damaged_download(
                f"{self.position} bytes arrived of a file of {self.header.file_size_bytes}"
            )


async def download_to_file(
    download: Download,
    path: Path,
    on_progress: Callable[[int, Header], None] = lambda position, header: None,
    *,
    must_sync: bool = False,
) -> Header:
    """Write a download to ``path``, which appears, or is replaced, only when the file is whole.

    Runs of zeros become holes. ``must_sync``: the file survives a power cut when this returns.
    Failed or cancelled, it leaves nothing behind. Raises `CallFailed`, `LocalFileFailed`.
    """
    path = _behind_links(path)
    part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            await _receive(download, _FileWriter(fd), on_progress)
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
    return download.header


async def download_to_stream(
    download: Download,
    fd: int,
    on_progress: Callable[[int, Header], None] = lambda position, header: None,
) -> Header:
    """Write a download to ``fd``, a pipe for example, zeros included.

    Raises `CallFailed`, `BrokenPipeError` when nobody reads any more, `LocalFileFailed`.
    """
    try:
        await _receive(download, _StreamWriter(fd), on_progress)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalFileFailed(f"cannot write the output: {error.strerror}", _room_hint(error)) from error
    return download.header


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


async def _receive(
    download: Download, writer: _FileWriter | _StreamWriter, on_progress: Callable[[int, Header], None]
) -> None:
    """Receive and write at once: a few pieces wait in a thread for the disk."""
    pool = ThreadPoolExecutor(writer.threads, "imsd-write")
    behind: deque[Future[None]] = deque()
    try:
        async for piece in download.pieces():
            behind.append(pool.submit(writer.write, piece))
            while len(behind) > WRITE_BEHIND_MESSAGES or (behind and behind[0].done()):
                await _written(behind.popleft())
            on_progress(download.position, download.header)
        while behind:
            await _written(behind.popleft())
        writer.finish(download.position)
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
