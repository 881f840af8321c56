"""Where the records of a ZVHD file are: found one after another, because nothing tells but the records."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from imsd.contract import ByteRange

from .source import ByteSource, NeedBytes
from .zvhd_layout import (
    BLOCK_BYTES,
    COOKIES,
    PAGE_BYTES,
    RECORD,
    ZVHD,
    malformed,
    read_record_start,
    record_bytes,
)

# Records whose places are held: all of 2 TiB of data; beyond that every second one, and so on.
MAX_LANDMARKS = 1 << 20
# Records that one call of `look` passes; what lies behind them is not known to it.
MAX_LOOK_RECORDS = 4096
# How often one call may ask for the start of another record. It is asked for bytes in vain as often as
# records lie in between, and whoever fetches them loses patience after 64 times.
MAX_LOOK_FETCHES = 32
_MAX_ASKED = 1024
# Known records that are told at once.
KNOWN_BATCH = 256


@dataclass(frozen=True, slots=True)
class Record:
    """The record of ``block`` lies in ``place``; ``ordinal``: records before it."""

    block: int
    place: ByteRange
    ordinal: int


class RecordScan:
    """The records of a file, in order. Thread-safe."""

    def __init__(self, source: ByteSource, blocks: int) -> None:
        self._source = source
        self._blocks = blocks
        self._end = source.size_bytes - PAGE_BYTES
        self._lock = threading.Lock()
        # Every record whose ordinal is a multiple of the stride.
        self._stride = 1
        self._landmark_blocks = array("q")
        self._landmark_offsets = array("q")
        # How far records are known: before this place, up to this block.
        self._known_end = PAGE_BYTES
        self._known_block = -1
        self._known_ordinal = 0
        self._asked: OrderedDict[tuple[int, int], int] = OrderedDict()

    def between(self, first: int, stop: int) -> Iterator[Record]:
        """The records of blocks ``first`` to ``stop``. Raises `NeedBytes`, ImageRefused."""
        for record in self._from(first):
            if record.block >= stop:
                return
            if record.block >= first:
                yield record

    def since(self, offset: int, ordinal: int, block: int) -> Iterator[Record]:
        """The records from ``offset`` on, which are those after ``block``. Raises as `between`."""
        while offset < self._end:
            record = self._read(offset, ordinal, block)
            yield record
            offset, ordinal, block = record.place.end, ordinal + 1, record.block

    def look(self, first: int, stop: int) -> tuple[list[int], int]:
        """Which of the blocks ``first`` to ``stop`` are stored, and up to which block that is all of them.

        Raises `NeedBytes`, ImageRefused.
        """
        found: list[int] = []
        passed = 0
        try:
            for record in self._from(first):
                if record.block >= stop:
                    break
                passed += 1
                if record.block >= first:
                    found.append(record.block)
                if passed == MAX_LOOK_RECORDS:
                    return found, max(first, record.block + 1)
        except NeedBytes:
            if not self._is_asked_too_often(first, stop):
                raise
            return found, min(stop, max(first, self._known_block + 1))
        with self._lock:
            self._asked.pop((first, stop), None)
        return found, stop

    def _is_asked_too_often(self, first: int, stop: int) -> bool:
        with self._lock:
            count = self._asked.pop((first, stop), 0) + 1
            if count > MAX_LOOK_FETCHES:
                return True
            self._asked[first, stop] = count
            if len(self._asked) > _MAX_ASKED:
                self._asked.popitem(last=False)
            return False

    def _from(self, block: int) -> Iterator[Record]:
        """The records from ``block`` on, and perhaps some before it."""
        last = -1
        while known := self._known(max(block, last + 1)):
            yield from known
            last = known[-1].block
        with self._lock:
            start = self._start_for(max(block, last + 1))
        for record in self.since(*start):
            if record.block > last:
                yield record

    def _known(self, block: int) -> list[Record]:
        """The next records from ``block`` on that can be told without reading; none when not all are held."""
        with self._lock:
            if self._stride > 1:
                return []
            first = bisect_left(self._landmark_blocks, block)
            blocks = self._landmark_blocks[first : first + KNOWN_BATCH]
            offsets = self._landmark_offsets[first : first + KNOWN_BATCH + 1]
            if len(offsets) == len(blocks):
                offsets.append(self._known_end)
        return [
            Record(block, ByteRange(low, high - low), first + number)
            for number, (block, (low, high)) in enumerate(zip(blocks, pairwise(offsets), strict=True))
        ]

    def _start_for(self, block: int) -> tuple[int, int, int]:
        """(offset, ordinal, a block that is before) of a record from which to look for ``block``."""
        if block > self._known_block:
            return self._known_end, self._known_ordinal, self._known_block
        index = bisect_right(self._landmark_blocks, block) - 1
        if index < 0:
            return PAGE_BYTES, 0, -1
        return self._landmark_offsets[index], index * self._stride, self._landmark_blocks[index] - 1

    def _read(self, offset: int, ordinal: int, before: int) -> Record:
        start = ByteRange(offset, RECORD.size)
        self._source.require([start])
        head = bytes(self._source.read(start.offset, start.length))
        if head.startswith(COOKIES[ZVHD]):
            raise malformed(ZVHD, f"bytes follow the end page at {offset}")
        payload_bytes, block = read_record_start(ZVHD, head, offset)
        place = ByteRange(offset, record_bytes(payload_bytes))
        check_order(ZVHD, block, before, self._blocks)
        if place.end > self._end:
            raise malformed(ZVHD, f"the record at {offset} reaches into the end page")
        record = Record(block, place, ordinal)
        self._note(record)
        return record

    def _note(self, record: Record) -> None:
        with self._lock:
            if record.ordinal != self._known_ordinal:
                return
            if record.ordinal % self._stride == 0:
                self._landmark_blocks.append(record.block)
                self._landmark_offsets.append(record.place.offset)
            if len(self._landmark_blocks) > MAX_LANDMARKS:
                self._stride *= 2
                self._landmark_blocks = self._landmark_blocks[::2]
                self._landmark_offsets = self._landmark_offsets[::2]
            self._known_end, self._known_block = record.place.end, record.block
            self._known_ordinal += 1


def check_order(name: str, block: int, before: int, blocks: int) -> None:
    """A record's block comes after the one ``before``, and is one of the disk.

    Raises ImageRefused (IMAGE_MALFORMED).
    """
    if block <= before:
        raise malformed(name, f"the record of block {block} follows that of block {before}")
    if block >= blocks:
        raise malformed(name, f"block {block} is beyond the end of a disk of {blocks * BLOCK_BYTES} bytes")
