"""The records of an NTFS master file table: attributes, those in other records too, and their content.

Source: as in ntfs_layout.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from . import ntfs_layout as layout
from .ntfs_layout import Geometry, repaired
from .ntfs_streams import CompressedStream, RunMap, RunStream
from .record import check_range, cut, unpack
from .volume import BytesVolume, GuestUnreadable, PartVolume, Volume

CACHED_RECORDS = 128
CACHED_STREAMS = 32


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute record. ``name`` as stored (UTF-16). ``value`` is None when its content lies in runs."""

    type: int
    name: bytes
    flags: int
    number: int
    value: bytes | None
    first_cluster: int = 0
    pairs: bytes = b""
    unit_bits: int = 0
    size_bytes: int = 0
    initialized: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A file, or (``base`` is not 0) the attributes of one that had no room in its own record."""

    number: int
    flags: int
    base: int
    attributes: tuple[Attribute, ...]

    def find(self, kind: int, name: bytes = b"") -> Attribute | None:
        """The first attribute of a type and name in this record."""
        return next(self.all(kind, name), None)

    def all(self, kind: int, name: bytes) -> Iterator[Attribute]:
        return (found for found in self.attributes if found.type == kind and found.name == name)


class Mft:
    """The master file table of ``volume``."""

    def __init__(self, volume: Volume, geometry: Geometry) -> None:
        """Raises `GuestUnreadable`."""
        self._volume = volume
        self._geometry = geometry
        # Until its first record is read, only that is known to be there.
        self._content: Volume = PartVolume(volume, geometry.mft_start, geometry.record_bytes)
        self._record = lru_cache(CACHED_RECORDS)(self._read_record)
        self._stream = lru_cache(CACHED_STREAMS)(self._open_stream)
        self._open_itself()

    def record(self, number: int) -> Record:
        """A file's own record. Raises `GuestUnreadable`, also when it is not in use."""
        found = self._record(number)
        if not found.flags & layout.RECORD_IN_USE or found.base:
            raise GuestUnreadable(f"record {number} is not that of a file")
        return found

    def stream(self, number: int, kind: int, name: bytes = b"") -> Volume | None:
        """The content of an attribute of a file; None when it has none such. Raises `GuestUnreadable`."""
        return self._stream(number, kind, name)

    def _open_itself(self) -> None:
        """The table lies in a file of its own, whose later runs may be listed in records that lie in it."""
        first = self.record(layout.MFT_RECORD)
        own = first.find(layout.DATA)
        if own is None or own.value is not None or own.first_cluster:
            raise GuestUnreadable("the MFT has no runs of its own")
        runs = RunMap()
        runs.extend(own.pairs)
        sizes = own.size_bytes, own.initialized
        self._content = RunStream(self._volume, runs, self._geometry.cluster_bytes, *sizes)
        for part in self._parts(first, layout.DATA, b""):
            if part is own:
                continue
            if part.first_cluster != runs.end:
                raise GuestUnreadable("the runs of the MFT do not follow one another")
            runs.extend(part.pairs)

    def _read_record(self, number: int) -> Record:
        check_range(number, 0, layout.MAX_RECORDS, "number of a record")
        size = self._geometry.record_bytes
        what = f"record {number}"
        content = repaired(self._content.read(number * size, size), layout.RECORD_MAGIC, what)
        _, _, _, _, start, flags, used, base = unpack(layout.RECORD, content, 0, what)
        check_range(used, layout.RECORD.size, size, f"length of {what}")
        return Record(
            number, flags, base & layout.REFERENCE_MASK, tuple(_attributes(content[:used], start, what))
        )

    def _open_stream(self, number: int, kind: int, name: bytes) -> Volume | None:
        record = self.record(number)
        parts = list(self._parts(record, kind, name))
        if not parts:
            return None
        first = parts[0]
        if first.flags & layout.ATTRIBUTE_ENCRYPTED:
            raise GuestUnreadable(f"record {number} is encrypted")
        if first.value is not None:
            return BytesVolume(first.value)
        return self._run_stream(parts)

    def _run_stream(self, parts: list[Attribute]) -> Volume:
        runs = RunMap()
        for part in parts:
            if part.first_cluster != runs.end or part.value is not None:
                raise GuestUnreadable("the runs of a stream do not follow one another")
            runs.extend(part.pairs)
        first, cluster = parts[0], self._geometry.cluster_bytes
        sizes = first.size_bytes, first.initialized
        if first.flags & layout.ATTRIBUTE_COMPRESSED and first.unit_bits:
            return CompressedStream((self._volume, runs), cluster, first.unit_bits, *sizes)
        return RunStream(self._volume, runs, cluster, *sizes)

    def _parts(self, record: Record, kind: int, name: bytes) -> Iterator[Attribute]:
        """The records of one attribute, in the order of its clusters."""
        listed = record.find(layout.ATTRIBUTE_LIST)
        if listed is None:
            yield from record.all(kind, name)
            return
        extensions = 0
        for number, attribute in _listed(self._list_content(listed), kind, name):
            holder = record
            if number != record.number:
                extensions = check_range(
                    extensions + 1, 1, layout.MAX_EXTENSION_RECORDS, "number of extension records"
                )
                holder = self._record(number)
                if holder.base != record.number:
                    raise GuestUnreadable(f"record {number} does not belong to {record.number}")
            found = next((a for a in holder.all(kind, name) if a.number == attribute), None)
            if found is None:
                raise GuestUnreadable(f"record {number} lacks an attribute of {record.number}")
            yield found

    def _list_content(self, listed: Attribute) -> bytes:
        if listed.value is not None:
            return listed.value
        stream = self._run_stream([listed])
        check_range(stream.size_bytes, 0, layout.MAX_LIST_BYTES, "size of an attribute list")
        return stream.read(0, stream.size_bytes)


def _attributes(content: bytes, position: int, what: str) -> Iterator[Attribute]:
    while position + 4 <= len(content):
        if content[position : position + 4] == b"\xff\xff\xff\xff":
            return
        length = unpack(layout.ATTRIBUTE, content, position, what)[1]
        check_range(
            length, layout.ATTRIBUTE.size, len(content) - position, f"length of an attribute of {what}"
        )
        yield _attribute(content[position : position + length], what)
        position += length


def _attribute(content: bytes, what: str) -> Attribute:
    kind, _, is_elsewhere, characters, start, flags, number = unpack(layout.ATTRIBUTE, content, 0, what)
    name = cut(content, start, 2 * characters, what) if characters else b""
    if not is_elsewhere:
        length, start = unpack(layout.RESIDENT, content, layout.DETAILS_OFFSET, what)
        return Attribute(kind, name, flags, number, cut(content, start, length, what))
    fields = unpack(layout.NON_RESIDENT, content, layout.DETAILS_OFFSET, what)
    first, _, pairs, unit_bits, _, size, initialized = fields
    return Attribute(kind, name, flags, number, None, first, content[pairs:], unit_bits, size, initialized)


def _listed(content: bytes, kind: int, name: bytes) -> Iterator[tuple[int, int]]:
    """Record and number of each attribute of a type and name in an attribute list."""
    position = 0
    while position + layout.LIST_ENTRY.size <= len(content):
        fields = unpack(layout.LIST_ENTRY, content, position, "attribute list")
        found, length, characters, start, _, reference, number = fields
        check_range(length, layout.LIST_ENTRY.size, len(content) - position, "length of a listed attribute")
        if found == kind and content[position + start : position + start + 2 * characters] == name:
            yield reference & layout.REFERENCE_MASK, number
        position += length
