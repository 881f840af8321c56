"""What an upload sends: a file, whose holes are found and skipped, or a stream that comes once.

All methods but `interrupt` block and belong in one thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from imsd.v1.upload_pb2 import UploadChunk

from .errors import LocalFileFailed, cannot_read

# Measured best for grpc.aio on loopback and unix sockets.
BLOCK_BYTES = 1 << 20
ZEROS = bytes(BLOCK_BYTES)
SHORT_HOLE_BYTES = 64 << 10
LONGEST_SCAN_BYTES = 256 << 20

# Of the mark of a file.
MARK_DIGITS = 64


def is_zero(block: bytes) -> bool:
    """Whether ``block``, of at most 1 MiB, is all zeros; comparing bytes is the fastest test there is."""
    return block == (ZEROS if len(block) == BLOCK_BYTES else ZEROS[: len(block)])


@dataclass(frozen=True, slots=True)
class Step:
    """``length`` bytes of the file from ``start``; ``data`` None: all of them are zero.

    With ``chunks`` there is no data: the daemon has those, one after the other.
    """

    start: int
    length: int
    data: bytes | None
    chunks: Sequence[UploadChunk] = ()

    @property
    def end(self) -> int:
        return self.start + self.length


class UploadSource(ABC):
    """The bytes of a file, in order, from any offset that was not forgotten.

    ``size_bytes`` is 0 when it is not known before the end. ``fingerprint`` is the mark by which an
    interrupted upload of the same file is found, empty when there is none. ``digest`` is the tree digest of
    all bytes where it was made before any was sent, else empty.
    """

    name: str
    size_bytes: int
    fingerprint: str
    digest: str = ""

    @property
    def regular_file(self) -> int | None:
        """The descriptor of a regular file, None for what is none."""
        return None

    @abstractmethod
    def seek(self, offset: int) -> None:
        """Go on at ``offset`` bytes, which was not forgotten."""

    @abstractmethod
    def next_step(self) -> Step | None:
        """The next bytes, at most 1 MiB of data or any length of zeros; None at the end.

        Raises `LocalFileFailed`.
        """

    @abstractmethod
    def forget(self, offset: int) -> None:
        """`seek` will not go back before ``offset`` again."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raises `LocalFileFailed` if what was read can no longer be trusted to be one state of the file."""

    def forget_chunks(self) -> None:
        """Give the bytes of chunks from now on: the daemon does not have one that it had."""
        return None  # most sources name none

    @abstractmethod
    def interrupt(self) -> None:
        """Make a `next_step` that runs in another thread return soon, and every later one at once."""


class FileSource(UploadSource):
    """A regular file or a block device behind ``fd``, which somebody else closes.

    ``stop_at``: no step goes beyond it; whoever sets it seeks next.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path
        with _reading(path):
            self._stat = os.fstat(fd)
            # A block device has no st_size.
            self.size_bytes = self.stop_at = os.lseek(fd, 0, os.SEEK_END)
        self.name = path.name
        # Unlike the fingerprint, known even while another process uploads the file.
        self.mark = self.fingerprint = _fingerprint(path, self.size_bytes, self._stat)
        self._position = 0
        self._data_end = 0  # data is known to reach until here, if that is beyond the position
        self._ahead: Step | None = None  # already read, given out next
        self._is_interrupted = False

    @property
    def regular_file(self) -> int | None:
        return self._fd if stat.S_ISREG(self._stat.st_mode) else None

    def head(self, length: int) -> bytes:
        """The first ``length`` bytes, or all. Raises `LocalFileFailed`."""
        with _reading(self._path):
            return os.pread(self._fd, length, 0)

    def another(self) -> FileSource:
        """The same file, read from its start, independently of this one."""
        return FileSource(self._fd, self._path)

    def seek(self, offset: int) -> None:
        self._position = offset
        self._data_end = 0
        self._ahead = None

    def next_step(self) -> Step | None:
        if step := self._ahead:
            self._ahead = None
            self._position = step.end
            return step
        start = self._position
        with _reading(self._path):
            while self._position < self.stop_at and not self._is_interrupted:
                if self._skip_hole():
                    continue
                step = self._read_block()
                if step.data is not None:
                    if start == self._position:
                        self._position = step.end
                        return step
                    self._ahead = step
                    break
                self._position = step.end
                if self._position - start >= LONGEST_SCAN_BYTES:
                    break  # so that progress is seen
        return Step(start, self._position - start, None) if start < self._position else None

    def forget(self, offset: int) -> None:
        return None  # a file can be read again

    def check_unchanged(self) -> None:
        now = os.fstat(self._fd)
        before = self._stat
        if stat.S_ISREG(now.st_mode) and (now.st_size, now.st_mtime_ns) != (
            before.st_size,
            before.st_mtime_ns,
        ):
            raise LocalFileFailed(
                f"{self._path} was changed while it was read", "stop whatever writes to it, then start again"
            )

    def interrupt(self) -> None:
        self._is_interrupted = True

    def _skip_hole(self) -> bool:
        """Move over a hole that starts at the position; False when data starts there."""
        if self._position >= self._data_end:
            data = self._next_data(self._position)
            if data - self._position >= SHORT_HOLE_BYTES or data == self.size_bytes:
                self._position = min(data, self.stop_at)
                return True
            self._data_end = self._next_hole(data)
        # Short holes are read like data: a message costs more than their zeros.
        while self._data_end < self._block_end():
            data = self._next_data(self._data_end)
            if data - self._data_end >= SHORT_HOLE_BYTES or data == self.size_bytes:
                break
            self._data_end = self._next_hole(data)
        return False

    def _block_end(self) -> int:
        """Blocks end at multiples of their size, so that a resumed upload sends the same ones."""
        return min(self._position - self._position % BLOCK_BYTES + BLOCK_BYTES, self.stop_at)

    def _next_data(self, offset: int) -> int:
        try:
            return min(os.lseek(self._fd, offset, os.SEEK_DATA), self.size_bytes)
        except OSError as error:
            # ENXIO: only a hole is left. Anything else: the file system or device knows no holes.
            return self.size_bytes if error.errno == errno.ENXIO else offset

    def _next_hole(self, offset: int) -> int:
        try:
            return max(min(os.lseek(self._fd, offset, os.SEEK_HOLE), self.size_bytes), offset + 1)
        except OSError:
            return self.size_bytes

    def _read_block(self) -> Step:
        start = self._position
        end = min(self._block_end(), self._data_end)
        block = os.pread(self._fd, end - start, start)
        if not block:
            raise LocalFileFailed(
                f"{self._path} became shorter while it was read",
                "stop whatever writes to it, then start again",
            )
        return Step(start, len(block), None if is_zero(block) else block)


class StreamSource(UploadSource):
    """A pipe, a terminal or standard input: what was sent and may be asked for again is kept.

    The memory taken is what lies between the daemon's last durable offset and the position: about one
    part of an upload; runs of zeros take none.
    """

    size_bytes = 0
    fingerprint = ""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self._kept: deque[Step] = deque()
        self._read_end = 0
        self._position = 0
        self._is_at_end = False
        self._wake_read, self._wake_write = os.pipe()
        self._is_interrupted = False

    def close(self) -> None:
        """Release the descriptors of this object; ``fd`` stays open."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def seek(self, offset: int) -> None:
        oldest = self._kept[0].start if self._kept else self._read_end
        if not oldest <= offset <= self._read_end:
            raise LocalFileFailed(
                f"the daemon asks for byte {offset} of {self.name}, which cannot be read again",
                "start again from the beginning",
            )
        self._position = offset

    def next_step(self) -> Step | None:
        for step in self._kept:
            if step.end > self._position:
                cut = self._position - step.start
                data = None if step.data is None else step.data[cut:]
                self._position = step.end
                return Step(step.start + cut, step.length - cut, data)
        if self._is_at_end:
            return None
        with _reading(Path(self.name)):
            block = self._read_block()
        self._is_at_end = len(block) < BLOCK_BYTES  # a terminal would ask for more
        if not block:
            return None
        data = None if is_zero(block) else block
        step = Step(self._read_end, len(block), data)
        self._kept.append(step)
        self._position = self._read_end = step.end
        return step

    def forget(self, offset: int) -> None:
        while self._kept and self._kept[0].end <= offset:
            self._kept.popleft()

    def check_unchanged(self) -> None:
        return None  # every byte was read once

    def interrupt(self) -> None:
        self._is_interrupted = True
        os.write(self._wake_write, b"x")

    def _read_block(self) -> bytes:
        """A whole block, or what is left before the end."""
        pieces = []
        missing = BLOCK_BYTES
        while missing and not self._is_interrupted:
            # A read of a silent pipe cannot be interrupted; waiting for two descriptors can.
            ready, _, _ = select.select([self._fd, self._wake_read], [], [])
            if self._wake_read in ready:
                break
            try:
                piece = os.read(self._fd, missing)
            except BlockingIOError:  # the descriptor does not wait, and another reader was faster
                continue
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        return b"" if self._is_interrupted else b"".join(pieces)


@contextmanager
def open_source(file: str) -> Iterator[FileSource | StreamSource]:
    """The source for ``file``: a path, or ``-`` for standard input. Raises `LocalFileFailed`."""
    if file == "-":
        yield from _stream(0, "standard input")
        return
    path = Path(file)
    with _reading(path):
        # The open of a named pipe would wait for a writer, whatever signal comes; a read can be ended.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise LocalFileFailed(f"{path} is a directory", "name the file of a disk image")
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
            source = FileSource(fd, path)
            if not _is_claimed(fd):
                source.fingerprint = ""
            yield source
        else:
            yield from _stream(fd, file)
    finally:
        os.close(fd)


def _stream(fd: int, name: str) -> Iterator[StreamSource]:
    source = StreamSource(fd, name)
    try:
        yield source
    finally:
        source.close()


def _is_claimed(fd: int) -> bool:
    """Whether this process is now the only one that uploads the file; holds while ``fd`` is open.

    Two uploads of one file at once must not take each other for an interrupted one.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _fingerprint(path: Path, size_bytes: int, status: os.stat_result) -> str:
    """A mark for "the same file, unchanged": 64 hex digits."""
    if not stat.S_ISREG(status.st_mode):
        return ""  # the time of a device's node says nothing about its content
    parts = (path.resolve(), size_bytes, status.st_mtime_ns, status.st_ino)
    return blake3("\0".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_read(path, error) from error
