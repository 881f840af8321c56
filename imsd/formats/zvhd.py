"""ZVHD: reading at random what can only be decoded front to back.

A payload needs the last 32 KiB of the block before (see `zvhd_codec`). These *histories* are kept as
checkpoints: the latest ones, so that windows asked for in about their order are decoded once, and some all
over the disk, so that going back does not mean starting over. A file that imsd wrote needs none.

A jump forward into a file of another program decodes all that lies between.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .reader import FormatReader, OpenedImage
from .source import BlockSource, ByteSource, Extent
from .zvhd_codec import HISTORY_BYTES, STREAM_START, inflate_piece, starts_stream
from .zvhd_layout import (
    BLOCK_BYTES,
    PAGE_BYTES,
    ZVHD,
    Page,
    malformed,
    payload_of,
    read_last_page,
    undecodable,
)
from .zvhd_records import Record, RecordScan

# Histories that are kept, 32 KiB each: the latest ones, and some all over the disk.
MAX_LATEST = 64
MAX_SPREAD = 192
# Decoded blocks that are kept, 2 MiB each: two windows that are read, and two that were passed on the way.
MAX_DECODED = 8


class ZvhdReader(FormatReader):
    name: ClassVar[str] = ZVHD
    summary: ClassVar[str] = "compressed VHD, read in one pass (zlib)"

    def open(self, source: ByteSource, max_virtual_size_bytes: int) -> OpenedImage:
        return OpenedImage(
            self.name, ZvhdBlocks(source, read_last_page(self.name, source, max_virtual_size_bytes))
        )


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What is needed to decode the record at ``offset``, which is the next after that of ``block``."""

    offset: int
    ordinal: int
    block: int
    history: bytes


class _Checkpoints:
    """The checkpoints of one file. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: OrderedDict[int, _Checkpoint] = OrderedDict()
        self._spread: dict[int, _Checkpoint] = {PAGE_BYTES: _Checkpoint(PAGE_BYTES, 0, -1, b"")}
        self._stride = 1

    def add(self, found: _Checkpoint) -> None:
        with self._lock:
            self._latest[found.offset] = found
            self._latest.move_to_end(found.offset)
            if len(self._latest) > MAX_LATEST:
                self._latest.popitem(last=False)
            if found.ordinal % self._stride == 0:
                self._spread[found.offset] = found
            while len(self._spread) > MAX_SPREAD:
                self._stride *= 2
                self._spread = {
                    offset: kept for offset, kept in self._spread.items() if kept.ordinal % self._stride == 0
                }

    def at(self, offset: int) -> _Checkpoint | None:
        with self._lock:
            return self._latest.get(offset) or self._spread.get(offset)

    def before(self, offset: int) -> _Checkpoint:
        """The last one at ``offset`` or before it."""
        with self._lock:
            known = {**self._spread, **self._latest}
        offsets = sorted(known)
        return known[offsets[bisect_right(offsets, offset) - 1]]


class ZvhdBlocks(BlockSource):
    """The disk of a ZVHD file."""

    def __init__(self, source: ByteSource, page: Page) -> None:
        self.size_bytes = page.size_bytes
        self._source = source
        self._records = RecordScan(source, page.blocks)
        self._checkpoints = _Checkpoints()
        self._decoded: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        # Held by the one thread that decodes blocks in between.
        self._on_the_way = threading.Lock()

    def extents(self, start: int, length: int) -> Sequence[Extent]:
        end = start + length
        stored, known_stop = self._records.look(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        found: list[Extent] = []
        position = start
        for block in stored:
            low, high = max(start, block * BLOCK_BYTES), min(end, (block + 1) * BLOCK_BYTES)
            if position < low:
                found.append(Extent(position, low - position, True))
            found.append(Extent(low, high - low, False))
            position = high
        known_end = max(position, min(end, known_stop * BLOCK_BYTES))
        if position < known_end:
            found.append(Extent(position, known_end - position, True))
        if known_end < end:
            found.append(Extent(known_end, end - known_end, False))
        return found

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        records = list(self._records.between(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)))
        missing = [record.place for record in records if self._kept(record) is None]
        if missing:
            self._source.require(missing)
        position = offset
        for record in records:
            guest = record.block * BLOCK_BYTES
            low, high = max(offset, guest), min(end, guest + BLOCK_BYTES)
            buffer[position - offset : low - offset] = bytes(low - position)
            plain = memoryview(self._block(record))
            buffer[low - offset : high - offset] = plain[low - guest : high - guest]
            position = high
        buffer[position - offset :] = bytes(end - position)

    def _kept(self, record: Record) -> bytes | None:
        with self._lock:
            return self._decoded.get(record.block)

    def _block(self, record: Record) -> bytes:
        plain = self._kept(record)
        if plain is not None:
            return plain
        payload = self._payload(record)
        checkpoint = self._checkpoints.at(record.place.offset)
        plain = inflate_piece(payload, checkpoint.history if checkpoint else b"")
        if plain is not None:
            self._keep(record, plain)
            return plain
        if checkpoint:
            raise undecodable(ZVHD, record.place.offset)
        return self._block_on_the_way(record)

    def _block_on_the_way(self, wanted: Record) -> bytes:
        """Decode from the last checkpoint up to ``wanted``. One thread at a time: others profit from it."""
        with self._on_the_way:
            plain = self._kept(wanted)
            if plain is not None:
                return plain
            start = self._checkpoints.before(wanted.place.offset)
            history = start.history
            for record in self._records.since(start.offset, start.ordinal, start.block):
                plain = inflate_piece(self._payload(record), history)
                if plain is None:
                    raise undecodable(ZVHD, record.place.offset)
                self._keep(record, plain)
                if record.place.offset == wanted.place.offset:
                    return plain
                history = plain[-HISTORY_BYTES:]
        raise undecodable(ZVHD, wanted.place.offset)

    def _payload(self, record: Record) -> memoryview:
        place = record.place
        self._source.require([place])
        payload = payload_of(ZVHD, memoryview(self._source.read(place.offset, place.length)), place.offset)
        return stream_payload(payload, record.ordinal)

    def _keep(self, record: Record, plain: bytes) -> None:
        self._checkpoints.add(
            _Checkpoint(record.place.end, record.ordinal + 1, record.block, plain[-HISTORY_BYTES:])
        )
        with self._lock:
            self._decoded[record.block] = plain
            self._decoded.move_to_end(record.block)
            if len(self._decoded) > MAX_DECODED:
                self._decoded.popitem(last=False)


def stream_payload(payload: memoryview, ordinal: int) -> memoryview:
    """The raw deflate of a payload: the first one starts with the header of the stream.

    Raises ImageRefused (IMAGE_MALFORMED).
    """
    if ordinal:
        return payload
    if not starts_stream(payload):
        raise malformed(ZVHD, "its first record does not start a zlib stream")
    return payload[len(STREAM_START) :]
