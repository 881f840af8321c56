"""The cache on the disk: stored bytes of blobs as they were fetched, kept over restarts, proved when read.

A file for each blob, in which records follow one another::

    magic, name of the blob | head, bytes | head, bytes | ...

A head says where in the blob the bytes belong, how many they are, and has their check: a record that was
torn or altered does not have it, and its file is forgotten. Which blob was used last is the time of its file.
When there is no more room, files go whole, those not used for longest first. No id of a blob is ever used for
other bytes, so nothing here gets old.

All methods block, and may be called in several threads. None raises: where the disk fails, there is no cache.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import threading
import time
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from blake3 import blake3

from imsd.contract import BlobId, Buffer, ByteRange

log = structlog.get_logger(__name__)

_MAGIC = b"imsd-cached-v1\0\0"
_NAME_BYTES = 32
# Of a file. What has another name is not ours, should the folder be that of somebody else.
_NAME = re.compile(r"[0-9a-f]{32}\Z")
_FILE_HEAD = len(_MAGIC) + _NAME_BYTES

# offset in the blob, length, zero, check
_HEAD = struct.Struct("<QII16s")
_PLACE = struct.Struct("<QI")
_CHECK_BYTES = 16

# A longer piece becomes several records: to prove a part of one, all of it is read.
MAX_RECORD_BYTES = 256 << 10

# What a file counts at least, so that many small ones are few enough to be remembered.
LEAST_FILE_BYTES = 64 << 10

# Of so many records the places are kept in memory, 170 bytes each: 17 MiB. With 128 to 256 KiB a record that
# is 12 to 25 GiB, those of the blobs that were used last. Heads of records of others are read again when they
# are needed, some 256 to 512 of a whole pack.
MAX_RECORDS = 100_000

# After the disk failed, it is left alone for so long.
PAUSE_SECONDS = 30.0


# Offset in the blob, end, place of the head in the file.
_Record = tuple[int, int, int]


@dataclass(slots=True)
class _CachedBlob:
    """A file. ``records``: sorted; None: not read yet, or not kept in memory.

    Who took the list goes on with it: what it has stays true. It is changed, and left, under ``lock``.
    """

    size_bytes: int
    records: list[_Record] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    charged_bytes: int = 0  # what of the limit it takes, as far as it is counted

    @property
    def counted_bytes(self) -> int:
        return max(self.size_bytes, LEAST_FILE_BYTES)


class StoredBytes:
    """The cache in ``folder``, of at most ``limit`` bytes; nobody else writes there. `open` comes first."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.limit = limit
        self._folder = folder
        self._blobs: OrderedDict[str, _CachedBlob] = OrderedDict()
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._at_hand: OrderedDict[str, int] = (
            OrderedDict()
        )  # of blobs in memory, used last at the end: records
        self._records_at_hand = 0
        self._rests_until = 0.0

    @property
    def is_usable(self) -> bool:
        return self.limit > 0 and time.monotonic() >= self._rests_until

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def open(self) -> None:
        """Find what an earlier process left."""
        if not self.limit:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.scandir(self._folder) as entries:
                ours = [entry for entry in entries if _NAME.match(entry.name)]
            found = [(entry.stat(follow_symlinks=False), entry.name) for entry in ours]
        except OSError as error:
            self._rest(error)
            return
        for status, name in sorted(found, key=lambda each: each[0].st_mtime):
            if not stat.S_ISREG(status.st_mode):
                continue
            self._blobs[name] = blob = _CachedBlob(status.st_size)
            self._charge(name, blob)
        self._make_room()

    def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes | None]:
        """Of each range its bytes, or None."""
        nothing: list[bytes | None] = [None] * len(ranges)
        name = _name(blob)
        with self._lock:
            cached = self._blobs.get(name)
            if cached is None:
                return nothing
            self._blobs.move_to_end(name)
        try:
            fd = os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            self._forget(name)
            return nothing
        try:
            with cached.lock:
                if cached.records is None:
                    cached.records, cached.size_bytes = _records(fd, blob)
                    os.utime(fd)
                records = cached.records
            self._keep_at_hand(name, cached)
            return [_piece(fd, cached.lock, records, wanted) for wanted in ranges]
        except (OSError, ValueError):
            self._forget(name)
            return nothing
        finally:
            os.close(fd)

    def write(self, blob: BlobId, pieces: Sequence[tuple[int, Buffer]]) -> bool:
        """Keep ``pieces`` (offset in the blob, bytes); whether they are."""
        if not self.is_usable:
            return False
        name = _name(blob)
        try:
            cached = self._append(name, blob, pieces)
        except OSError as error:
            self._forget(name)
            self._rest(error)
            return False
        with self._lock:
            self._charge(name, cached)
        self._keep_at_hand(name, cached)
        self._make_room()
        return True

    def forget(self, blob: BlobId) -> bool:
        """Keep nothing of it; whether anything was."""
        with self._lock:
            is_known = _name(blob) in self._blobs
        self._forget(_name(blob))
        return is_known

    def _charge(self, name: str, cached: _CachedBlob) -> None:
        """Count what it has grown by, unless it is gone."""
        if self._blobs.get(name) is cached:
            self._used_bytes += cached.counted_bytes - cached.charged_bytes
            cached.charged_bytes = cached.counted_bytes

    def _keep_at_hand(self, name: str, cached: _CachedBlob) -> None:
        """Its records were used: keep them in memory, and leave those not used for longest in their files."""
        left = []
        with self._lock:
            if self._blobs.get(name) is cached:
                count = len(cached.records or ())
                self._records_at_hand += count - self._at_hand.pop(name, 0)
                self._at_hand[name] = count
            while self._records_at_hand > MAX_RECORDS:
                oldest, count = self._at_hand.popitem(last=False)
                self._records_at_hand -= count
                left.append(self._blobs[oldest])
        for each in left:  # one that is used meanwhile is read, and counted, again
            with each.lock:
                each.records = None

    def _append(self, name: str, blob: BlobId, pieces: Sequence[tuple[int, Buffer]]) -> _CachedBlob:
        fd = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with self._lock:
                cached = self._blobs.get(name)
                is_new = cached is None
                if cached is None:
                    cached = self._blobs[name] = _CachedBlob(0)
                self._blobs.move_to_end(name)
            with cached.lock:
                if is_new:
                    cached.size_bytes = _begin(fd, blob)
                    cached.records = []
                elif cached.records is None:
                    try:
                        cached.records, cached.size_bytes = _records(fd, blob)
                    except ValueError:
                        cached.size_bytes, cached.records = _begin(fd, blob), []
                for offset, content in pieces:
                    for start in range(0, len(content), MAX_RECORD_BYTES):
                        part = memoryview(content)[start : start + MAX_RECORD_BYTES]
                        _write_record(fd, cached, offset + start, part)
                return cached
        finally:
            os.close(fd)

    def _make_room(self) -> None:
        while True:
            with self._lock:
                if self._used_bytes <= self.limit or not self._blobs:
                    return
                name = next(iter(self._blobs))
            self._forget(name)

    def _forget(self, name: str) -> None:
        with self._lock:
            cached = self._blobs.pop(name, None)
            if cached is not None:
                self._used_bytes -= cached.charged_bytes
            self._records_at_hand -= self._at_hand.pop(name, 0)
        with suppress(OSError):
            os.unlink(self._folder / name)

    def _rest(self, error: OSError) -> None:
        self._rests_until = time.monotonic() + PAUSE_SECONDS
        log.warning("the cache on the disk is left alone for a while", error=str(error))
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _name(blob: BlobId) -> str:
    return blake3(blob.encode()).hexdigest(_NAME_BYTES // 2)


def _file_head(blob: BlobId) -> bytes:
    return _MAGIC + blake3(blob.encode()).digest(_NAME_BYTES)


def _begin(fd: int, blob: BlobId) -> int:
    """Make the file an empty one; its size."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, _file_head(blob), 0)
    return _FILE_HEAD


def _check(offset: int, content: Buffer) -> bytes:
    return blake3(_PLACE.pack(offset, len(content))).update(content).digest(_CHECK_BYTES)


def _records(fd: int, blob: BlobId) -> tuple[list[_Record], int]:
    """Those of the file, and where the last ends: what follows is cut off. Raises ValueError, OSError."""
    if os.pread(fd, _FILE_HEAD, 0) != _file_head(blob):
        raise ValueError("the file is of another blob")
    size = os.fstat(fd).st_size
    found, position = [], _FILE_HEAD
    while position + _HEAD.size <= size:
        offset, length, zero, _ = _HEAD.unpack(os.pread(fd, _HEAD.size, position))
        end = position + _HEAD.size + length
        if not 0 < length <= MAX_RECORD_BYTES or zero or end > size:
            break
        found.append((offset, offset + length, position))
        position = end
    if position < size:
        os.ftruncate(fd, position)
    return sorted(found), position


def _write_record(fd: int, cached: _CachedBlob, offset: int, content: memoryview) -> None:
    head = _HEAD.pack(offset, len(content), 0, _check(offset, content))
    position = cached.size_bytes
    if os.pwritev(fd, [head, content], position) != len(head) + len(content):
        raise OSError("the disk took a part only")
    cached.size_bytes += len(head) + len(content)
    assert cached.records is not None
    insort(cached.records, (offset, offset + len(content), position))


def _piece(fd: int, lock: threading.Lock, records: Sequence[_Record], wanted: ByteRange) -> bytes | None:
    """The bytes of a range, if ``records`` cover it. Raises ValueError when one does not have its check."""
    pieces: list[Buffer] = []
    position = wanted.offset
    while position < wanted.end:
        with lock:
            record = _record_at(records, position)
        if record is None:
            return None
        offset, end, _ = record
        content = _proved(fd, record)
        pieces.append(memoryview(content)[position - offset : wanted.end - offset])
        position = end
    return b"".join(pieces)


def _record_at(records: Sequence[_Record], position: int) -> _Record | None:
    """One that has the byte at ``position``."""
    # Records of one blob overlap seldom: of those that begin before, one of the last few is meant.
    index = bisect_right(records, (position, 1 << 63, 0))
    for record in reversed(records[max(0, index - 4) : index]):
        if record[0] <= position < record[1]:
            return record
    return None


def _proved(fd: int, record: _Record) -> bytes:
    offset, end, place = record
    raw = os.pread(fd, _HEAD.size + end - offset, place)
    content = raw[_HEAD.size :]
    if len(content) != end - offset or _HEAD.unpack_from(raw)[3] != _check(offset, content):
        raise ValueError("a record was altered")
    return content
