"""ISO 9660 with the names of Rock Ridge, else of Joliet, else its own; and what El Torito would boot.

References: ECMA-119; see `iso9660_layout` and `rock_ridge`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from .cached import cached
from .file_system import MAX_DIRECTORY_BLOCKS, MAX_ENTRIES, FileSystem, Kind, Node, check_link_length
from .iso9660_layout import (
    HAS_MORE,
    IS_ASSOCIATED,
    IS_DIRECTORY,
    SECTOR_BYTES,
    BootEntry,
    Descriptors,
    DirectoryRecord,
    parse_record,
    read_catalogue,
    read_descriptors,
)
from .record import check_range
from .rock_ridge import UnixRecord, bytes_to_skip, read_unix_record
from .runs import part_of_file
from .volume import GuestUnreadable, PartVolume, Volume

# A record takes at most 255 bytes and lies within a sector.
MAX_RECORD_BYTES = 255
ROOT_NUMBER = 0
# Parts of a file above 4 GiB, each with a record of its own.
MAX_PARTS = 64


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record, and what Rock Ridge says of it. ``size_bytes`` of all parts of the file."""

    record: DirectoryRecord
    unix: UnixRecord | None
    size_bytes: int


class Iso9660FileSystem(FileSystem):
    """A node's number is the place of its record on the volume.

    ``boot_entries``: El Torito's, in their order; empty when the disc boots nothing.
    """

    name = "iso9660"

    def __init__(self, volume: Volume, descriptors: Descriptors) -> None:
        self._volume = cached(volume)
        self.label = descriptors.primary.label
        self.uuid = descriptors.primary.uuid
        self._described = descriptors.primary
        self._skipped = self._announced()
        self._is_joliet = self._skipped is None and descriptors.joliet is not None
        if self._is_joliet and descriptors.joliet is not None:
            self._described = descriptors.joliet
        self.is_case_sensitive = self._skipped is not None
        self.boot_entries: tuple[BootEntry, ...] = ()
        if descriptors.catalogue is not None:
            self.boot_entries = read_catalogue(self._volume, descriptors.catalogue)

    @classmethod
    def open(cls, volume: Volume) -> Self | None:
        descriptors = read_descriptors(volume)
        return None if descriptors is None else cls(volume, descriptors)

    def boot_volume(self, entry: BootEntry) -> Volume:
        """The image that ``entry`` starts, to the end of the disc. Raises `GuestUnreadable`."""
        return PartVolume(self._volume, entry.start, self._volume.size_bytes)

    def root(self) -> Node:
        return Node(ROOT_NUMBER, Kind.DIRECTORY, self._described.root.size_bytes)

    def entries(self, directory: Node) -> Iterator[tuple[str, Node]]:
        left = MAX_ENTRIES
        for entry in self._entries(directory):
            if not left:
                raise GuestUnreadable(f"a directory with more than {MAX_ENTRIES} entries")
            left -= 1
            yield self._name(entry), Node(entry.record.place, _kind(entry), entry.size_bytes)

    def read(self, node: Node, offset: int, length: int) -> bytes:
        count = part_of_file(node.size_bytes, offset, length)
        found: list[bytes] = []
        for record in self._parts(node.number) if count else ():
            here = min(count, max(0, record.size_bytes - offset))
            found.append(self._volume.read(record.start + offset, here) if here else b"")
            count -= here
            if not count:
                break
            offset = max(0, offset - record.size_bytes)
        return b"".join(found)

    def link_target(self, node: Node) -> str:
        unix = self._unix(self._record(node.number))
        if unix is None or not unix.is_link:
            raise GuestUnreadable("what should be a link is none")
        check_link_length(len(unix.target))
        return unix.target.decode("utf-8", "surrogateescape")

    def _announced(self) -> int | None:
        first = next(self._records(self._described.root), None)
        return None if first is None else bytes_to_skip(first.system_use)

    def _record(self, place: int) -> DirectoryRecord:
        if place == ROOT_NUMBER:
            return self._described.root
        room = SECTOR_BYTES - place % SECTOR_BYTES
        raw = self._volume.read(place, min(room, MAX_RECORD_BYTES, self._volume.size_bytes - place))
        return parse_record(raw, place, self._described.block_bytes)

    def _unix(self, record: DirectoryRecord) -> UnixRecord | None:
        if self._skipped is None:
            return None
        return read_unix_record(self._volume, record.system_use[self._skipped :], self._described.block_bytes)

    def _records(self, directory: DirectoryRecord) -> Iterator[DirectoryRecord]:
        """All records of a directory, those of itself and its parent first."""
        end = directory.start + check_range(
            directory.size_bytes, 0, MAX_DIRECTORY_BLOCKS * SECTOR_BYTES, "the size of a directory"
        )
        for sector in range(directory.start, end, SECTOR_BYTES):
            content = self._volume.read(sector, min(SECTOR_BYTES, end - sector))
            place = 0
            while place < len(content) and content[place]:
                yield parse_record(content[place:], sector + place, self._described.block_bytes)
                place += content[place]

    def _entries(self, directory: Node) -> Iterator[_Entry]:
        """The files of a directory, several parts of one as one."""
        parent = self._record(directory.number)
        if not parent.flags & IS_DIRECTORY:
            raise GuestUnreadable("what should be a directory is none")
        first: DirectoryRecord | None = None
        size = 0
        for record in self._records(parent):
            if record.flags & IS_ASSOCIATED or record.raw_name in (b"\0", b"\1"):
                continue
            first = first or record
            size += record.size_bytes
            if not record.flags & HAS_MORE:
                yield _Entry(first, self._unix(first), size)
                first, size = None, 0

    def _parts(self, place: int) -> Iterator[DirectoryRecord]:
        """The record at ``place`` and, for a file in several parts, those after it."""
        for _ in range(MAX_PARTS):
            record = self._record(place)
            yield record
            if not record.flags & HAS_MORE:
                return
            place += self._volume.read(place, 1)[0]
            if self._volume.read(place, 1) == b"\0":  # the rest of a sector is empty
                place = -(-place // SECTOR_BYTES) * SECTOR_BYTES
        raise GuestUnreadable("a file of ISO 9660 in too many parts")

    def _name(self, entry: _Entry) -> str:
        if entry.unix is not None and entry.unix.name is not None:
            return entry.unix.name.decode("utf-8", "surrogateescape")
        if self._is_joliet:
            name = entry.record.raw_name.decode("utf-16-be", "replace")
        else:
            name = entry.record.raw_name.decode("utf-8", "surrogateescape")
        return name.split(";", 1)[0].rstrip(".")


def _kind(entry: _Entry) -> Kind:
    if entry.unix is not None and entry.unix.is_link:
        return Kind.LINK
    if entry.record.flags & IS_DIRECTORY:
        return Kind.DIRECTORY
    if entry.unix is not None and entry.unix.mode and not stat.S_ISREG(entry.unix.mode):
        return Kind.OTHER
    return Kind.FILE
