"""Which kernel modules an initramfs holds: names only, without unpacking it anywhere.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst: archives one after another,
each a cpio archive (newc), or a compressed stream of such archives, with zeros between them. The first
ones are often small and hold microcode only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from .unpacking import Unpacking
from .volume import GuestUnreadable, Volume

MAX_INITRAMFS_BYTES = 48 << 20
MAX_UNPACKED_BYTES = 256 << 20
MAX_ENTRIES = 50_000
MAX_ARCHIVES = 16
MAX_NAME_BYTES = 4096

# newc: magic, then 13 numbers of 8 hexadecimal digits; the size of the file is the 7th, of its name the 12th.
HEADER_BYTES = 110
MAGICS = (b"070701", b"070702")
LAST_NAME = b"TRAILER!!!"

_MODULE = re.compile(rb"([A-Za-z0-9_-]+)\.ko(?:\.(?:xz|gz|zst|bz2|lzo))?$")


class InitramfsUnknown(GuestUnreadable):
    """It may be good, but it cannot be read here: another compression, or more than a limit."""


COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}
# Recognised, and left alone: the standard library reads neither.
UNREAD = {b"\x02\x21\x4c\x18": "lz4", b"\x89LZO": "lzo"}


def is_initramfs(head: bytes) -> bool:
    """Whether a file that begins so can be one; ``head``: 6 bytes or more."""
    return head.startswith((*MAGICS, *COMPRESSIONS, *UNREAD))


def modules(initramfs: Volume) -> Iterator[str]:
    """The names of its modules (with ``_`` for ``-``) in the order they lie there, and no more than asked
    for.

    Raises `GuestUnreadable`, when it is only not known here `InitramfsUnknown`.
    """
    if initramfs.size_bytes > MAX_INITRAMFS_BYTES:
        raise InitramfsUnknown(f"an initramfs of {initramfs.size_bytes >> 20} MiB")
    offset, entries = 0, 0
    for _ in range(MAX_ARCHIVES):
        offset = _skip_zeros(initramfs, offset)
        if offset >= initramfs.size_bytes:
            return
        head = initramfs.read(offset, min(6, initramfs.size_bytes - offset))
        if not head.startswith(MAGICS):
            stream = Unpacking(initramfs, offset, _compression(head))
            unpacked = _Unpacked(iter(stream))
            while unpacked.skip_zeros():
                yield from _names(unpacked, entries)
            offset, entries = stream.position, entries + unpacked.entries
            continue
        plain = _Plain(initramfs, offset)
        yield from _names(plain, entries)
        offset, entries = plain.position, entries + plain.entries
    raise GuestUnreadable(f"more than {MAX_ARCHIVES} archives in an initramfs")


def _compression(head: bytes) -> str:
    for magic, name in COMPRESSIONS.items():
        if head.startswith(magic):
            return name
    for magic, name in UNREAD.items():
        if head.startswith(magic):
            raise InitramfsUnknown(f"an initramfs compressed with {name}")
    raise GuestUnreadable("what stands for an initramfs is none")


def _skip_zeros(volume: Volume, offset: int) -> int:
    while offset < volume.size_bytes:
        piece = volume.read(offset, min(4096, volume.size_bytes - offset))
        rest = piece.lstrip(b"\0")
        if rest:
            return offset + len(piece) - len(rest)
        offset += len(piece)
    return offset


class _Archive(Protocol):
    entries: int

    def take(self, count: int) -> bytes: ...

    def skip(self, count: int) -> None: ...


def _names(archive: _Archive, earlier: int) -> Iterator[str]:
    """Walks one cpio archive. Raises `GuestUnreadable`."""
    while True:
        header = archive.take(HEADER_BYTES)
        if not header.startswith(MAGICS):
            raise GuestUnreadable("a damaged archive in an initramfs")
        archive.entries += 1
        if archive.entries + earlier > MAX_ENTRIES:
            raise InitramfsUnknown(f"more than {MAX_ENTRIES} files in an initramfs")
        size, name_size = _number(header, 6), _number(header, 11)
        if not 0 < name_size <= MAX_NAME_BYTES:
            raise GuestUnreadable("a name too long in an initramfs")
        name = archive.take(name_size + _padding(HEADER_BYTES + name_size))[:name_size].rstrip(b"\0")
        if name == LAST_NAME:
            return
        archive.skip(size + _padding(size))
        found = _MODULE.search(name)
        if found:
            yield found.group(1).decode().replace("-", "_")


def _number(header: bytes, index: int) -> int:
    try:
        return int(header[6 + index * 8 : 14 + index * 8], 16)
    except ValueError as error:
        raise GuestUnreadable("a damaged archive in an initramfs") from error


def _padding(count: int) -> int:
    return -count % 4


class _Plain:
    """An archive that lies there as it is: what files hold is never read."""

    def __init__(self, volume: Volume, start: int) -> None:
        self._volume = volume
        self._start = start
        self.position = start
        self.entries = 0

    def take(self, count: int) -> bytes:
        content = self._volume.read(self.position, count)
        self.position += count
        return content

    def skip(self, count: int) -> None:
        self.position += count


class _Unpacked:
    """Archives that are unpacked as far as they are walked, and thrown away."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._ready = b""
        self._place = 0
        self._total = 0
        self.entries = 0

    def take(self, count: int) -> bytes:
        while len(self._ready) - self._place < count:
            self._ready = self._ready[self._place :] + self._more()
            self._place = 0
        content = self._ready[self._place : self._place + count]
        self._place += count
        return content

    def skip(self, count: int) -> None:
        while count:
            step = min(count, len(self._ready) - self._place)
            self._place += step
            count -= step
            if count:
                self._ready, self._place = self._more(), 0

    def skip_zeros(self) -> bool:
        """Whether anything follows."""
        while True:
            rest = self._ready[self._place :].lstrip(b"\0")
            if rest:
                self._place = len(self._ready) - len(rest)
                return True
            piece = next(self._pieces, b"")
            if not piece:
                return False
            self._count(piece)
            self._ready, self._place = piece, 0

    def _more(self) -> bytes:
        piece = next(self._pieces, b"")
        if not piece:
            raise GuestUnreadable("an initramfs ends too early")
        self._count(piece)
        return piece

    def _count(self, piece: bytes) -> None:
        self._total += len(piece)
        if self._total > MAX_UNPACKED_BYTES:
            raise InitramfsUnknown(f"an initramfs that unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
