"""VHDX: the log, which must be replayed before anything else is believed.

Reference: [MS-VHDX] 2.3. The log is a ring of entries, each of whole sectors of 4 KiB: a header, descriptors,
and the content of the sectors that are to be written. Nothing is written: the changes are laid over the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imsd.contract import ByteRange, ImageRefused

from .overlay import Change, OverlaySource
from .source import ByteSource
from .vhdx_layout import MAX_FILE_BYTES, Header, crc, malformed, truncated

SECTOR_BYTES = 4096
# Hyper-V and QEMU make logs of 1 MiB.
MAX_LOG_BYTES = 16 << 20
MAX_DESCRIPTORS = 1 << 14
# So many times its length may a log have in entries: those of a hostile one overlap.
MAX_LOOKED_AT = 4
# How far beyond its end replaying may extend a file: the blocks that were being added.
MAX_GROWTH_BYTES = 1 << 30

# signature, checksum, length, tail, sequence number, descriptors, reserved, log UUID, flushed file offset,
# last file offset
ENTRY = struct.Struct("<4sIIIQII16sQQ")
ENTRY_SIGNATURE = b"loge"
DESCRIPTOR = np.dtype(
    [("kind", "<u4"), ("trailing", "<u4"), ("leading", "<u8"), ("offset", "<u8"), ("sequence", "<u8")]
)
ZERO_KIND = int.from_bytes(b"zero", "little")  # `leading` is the length of the zeros
DATA_KIND = int.from_bytes(b"desc", "little")
DATA_SECTOR = np.dtype([("signature", "<u4"), ("high", "<u4"), ("content", "V4084"), ("low", "<u4")])
DATA_SIGNATURE = int.from_bytes(b"data", "little")

Descriptors = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry with a right checksum, at ``offset`` of the log."""

    offset: int
    tail: int
    sequence: int
    flushed_file_bytes: int
    last_file_bytes: int
    descriptors: Descriptors
    sectors: Descriptors
    length: int


def replayed(source: ByteSource, header: Header) -> ByteSource:
    """The file as it is after its log was replayed. Raises ImageRefused, `NeedBytes`."""
    if header.log.length > MAX_LOG_BYTES:
        raise ImageRefused(
            f"the vhdx file was not closed, and its log of {header.log.length} bytes is too long to replay",
            reason="FORMAT_UNSUPPORTED",
            hint="replay the log with `qemu-img check -r all`, or attach and detach the disk in Hyper-V",
        )
    source.require([header.log])
    log = _Log(bytes(source.read(*header.log)), header.log_id)
    entries = log.active_sequence()
    if not entries:
        raise malformed("it was not closed, and its log holds no sequence of entries that could be replayed")
    head = entries[-1]
    if head.flushed_file_bytes > source.size_bytes:
        raise truncated(f"it had {head.flushed_file_bytes} bytes, of which {source.size_bytes} are left")
    if sum(len(entry.descriptors) for entry in entries) > MAX_DESCRIPTORS:
        raise malformed(f"its log makes more than {MAX_DESCRIPTORS} changes")
    changes = [change for entry in entries for change in _changes(entry)]
    size = max(source.size_bytes, head.last_file_bytes, *(change.end for change in changes), 0)
    if size - source.size_bytes > MAX_GROWTH_BYTES:
        raise truncated(f"its log speaks of {size} bytes, it has {source.size_bytes}")
    return OverlaySource(source, changes, size)


class _Log:
    """The bytes of a log, and what was found out about them so far."""

    def __init__(self, content: bytes, log_id: bytes) -> None:
        self._content = content
        self._log_id = log_id
        self._entries: dict[int, Entry | None] = {}
        self._looked_at = 0

    def active_sequence(self) -> Sequence[Entry]:
        """The newest whole sequence, from its tail to its head; empty when there is none."""
        found: Sequence[Entry] = ()
        fruitless: set[int] = set()
        tail = 0
        while tail < len(self._content):
            # What begins inside a sequence without its tail has the same head, and lacks the tail as well.
            sequence = self._sequence_at(tail) if tail not in fruitless else ()
            whole = _from_tail(sequence)
            if whole and (not found or whole[-1].sequence > found[-1].sequence):
                found = whole
            if not whole:
                fruitless.update(entry.offset for entry in sequence)
            tail += sum(entry.length for entry in sequence) if whole else SECTOR_BYTES
        return found

    def _sequence_at(self, offset: int) -> Sequence[Entry]:
        """The entries from ``offset`` on whose sequence numbers follow each other, at most once around."""
        entries: list[Entry] = []
        room = len(self._content)
        while room and (entry := self._entry_at(offset % len(self._content))):
            if entry.length > room or (entries and entry.sequence != entries[-1].sequence + 1):
                break
            entries.append(entry)
            room -= entry.length
            offset += entry.length
        return entries

    def _entry_at(self, offset: int) -> Entry | None:
        """The valid entry at ``offset``, if there is one."""
        if offset not in self._entries:
            self._entries[offset] = self._read_entry(offset)
        return self._entries[offset]

    def _read_entry(self, offset: int) -> Entry | None:
        fields = ENTRY.unpack_from(self._content, offset)
        signature, stored, length, tail, sequence, count, _, log_id, flushed, last = fields
        if signature != ENTRY_SIGNATURE or log_id != self._log_id or not sequence:
            return None
        if length % SECTOR_BYTES or not SECTOR_BYTES <= length <= len(self._content):
            return None
        if count > (length - ENTRY.size) // DESCRIPTOR.itemsize:
            return None
        self._looked_at += length
        if self._looked_at > MAX_LOOKED_AT * len(self._content):
            raise malformed("the entries of its log overlap")
        content = self._ring(offset, length)
        if crc(content) != stored:
            return None
        descriptors = np.frombuffer(content, DESCRIPTOR, count, ENTRY.size)
        sectors = _sectors(content, descriptors)
        if sectors is None or not _are_of(sequence, descriptors, sectors):
            return None
        return Entry(offset, tail, sequence, flushed, last, descriptors, sectors, length)

    def _ring(self, offset: int, length: int) -> bytes:
        content = self._content[offset : offset + length]
        return content + self._content[: length - len(content)]


def _from_tail(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The part of ``entries`` that the last one says is the sequence; empty when it begins elsewhere."""
    starts = [entry.offset for entry in entries]
    return entries[starts.index(entries[-1].tail) :] if entries and entries[-1].tail in starts else ()


def _sectors(content: bytes, descriptors: Descriptors) -> Descriptors | None:
    """The data sectors after the descriptors, None when there are fewer than these need."""
    used = ENTRY.size + len(descriptors) * DESCRIPTOR.itemsize
    start = -(-used // SECTOR_BYTES) * SECTOR_BYTES
    count = int((descriptors["kind"] == DATA_KIND).sum())
    if len(content) < start + count * SECTOR_BYTES:
        return None
    return np.frombuffer(content, DATA_SECTOR, count, start) if count else np.empty(0, DATA_SECTOR)


def _are_of(sequence: int, descriptors: Descriptors, sectors: Descriptors) -> bool:
    """Whether everything in an entry bears its sequence number and is of a known kind."""
    kinds = descriptors["kind"]
    return bool(
        ((kinds == DATA_KIND) | (kinds == ZERO_KIND)).all()
        and (descriptors["sequence"] == sequence).all()
        and (sectors["signature"] == DATA_SIGNATURE).all()
        and (sectors["high"] == sequence >> 32).all()
        and (sectors["low"] == sequence & 0xFFFF_FFFF).all()
    )


def _changes(entry: Entry) -> Iterator[Change]:
    """What an entry writes, in order. Raises ImageRefused."""
    number = 0
    for kind, trailing, leading, offset, _ in entry.descriptors.tolist():
        length = leading if kind == ZERO_KIND else SECTOR_BYTES
        if offset % SECTOR_BYTES or length % SECTOR_BYTES or max(offset, length) > MAX_FILE_BYTES:
            raise malformed(
                f"its log writes {length} bytes at {offset}, which are no whole sectors of a file"
            )
        if kind == ZERO_KIND:
            yield Change(ByteRange(offset, length), None)
            continue
        middle = entry.sectors["content"][number].tobytes()
        number += 1
        yield Change(
            ByteRange(offset, length), leading.to_bytes(8, "little") + middle + trailing.to_bytes(4, "little")
        )
