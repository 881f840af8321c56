"""Segments: recorded pieces of a manifest.

An upload that is stored while it arrives writes one segment a checkpoint: the entries since the last
one. When it is complete, the manifest is assembled from its segments. All in one blob::

    header | pack table: 16 bytes a pack | content rows | location rows | BLAKE3 of everything before

Rows are those of `layout`, numbers little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from blake3 import blake3

from imsd.contract import DataLoss

from .entry import ChunkEntry, EntrySink
from .index import Codec, Location
from .layout import CONTENT_ENTRY, LOCATION_ENTRY
from .manifest_writer import PackTable, content_row, location_row

# magic, entries, packs
_HEADER = struct.Struct("<16sQQ")
_MAGIC = b"imsd-segment-v2\0"
_PACK_ID_BYTES = 16
_CHECK_BYTES = 32


class SegmentSink(EntrySink):
    """Collects entries until they are taken: those of one checkpoint."""

    def __init__(self) -> None:
        self._entries: list[ChunkEntry] = []

    async def add(self, entries: Sequence[ChunkEntry]) -> None:
        self._entries += entries

    def take(self) -> list[ChunkEntry]:
        """What came since the last call."""
        entries, self._entries = self._entries, []
        return entries


def encode_segment(entries: Sequence[ChunkEntry]) -> bytes:
    packs = PackTable()
    content = b"".join(content_row(entry) for entry in entries)
    locations = b"".join(location_row(entry.location, packs) for entry in entries)
    header = _HEADER.pack(_MAGIC, len(entries), len(packs.ids))
    segment = b"".join((header, packs.to_bytes(), content, locations))
    return segment + blake3(segment).digest()


def decode_segment(segment: bytes) -> list[ChunkEntry]:
    """Raises DataLoss if ``segment`` is not what `encode_segment` returned for chunks in guest order."""
    body, check = segment[:-_CHECK_BYTES], segment[-_CHECK_BYTES:]
    if len(body) < _HEADER.size or blake3(body).digest() != check:
        raise _damaged("its digest does not match")
    magic, count, pack_count = _HEADER.unpack_from(body)
    content_at = _HEADER.size + pack_count * _PACK_ID_BYTES
    locations_at = content_at + count * CONTENT_ENTRY.itemsize
    if magic != _MAGIC or len(body) != locations_at + count * LOCATION_ENTRY.itemsize:
        raise _damaged("its header contradicts its length")
    packs = [body[at : at + _PACK_ID_BYTES].hex() for at in range(_HEADER.size, content_at, _PACK_ID_BYTES)]
    content = np.frombuffer(body, CONTENT_ENTRY, count, content_at).tolist() if count else []
    places = np.frombuffer(body, LOCATION_ENTRY, count, locations_at).tolist() if count else []
    entries = [_entry(row, place, packs) for row, place in zip(content, places, strict=True)]
    if any(later.start < earlier.end for earlier, later in pairwise(entries)):
        raise _damaged("its chunks overlap")
    return entries


def _entry(
    row: tuple[int, int, int, bytes], place: tuple[int, int, int, int, bytes, int, int], packs: Sequence[str]
) -> ChunkEntry:
    start, length, _, digest = row
    pack, offset, stored_length, codec, check, first_length, first_stored = place
    if pack >= len(packs) or codec not in tuple(Codec):
        raise _damaged("one of its chunks cannot be")
    where = Location(
        packs[pack], offset, stored_length, length, Codec(codec), check, first_length, first_stored
    )
    if not where.is_possible:
        raise _damaged("one of its chunks cannot be")
    return ChunkEntry(start, length, digest, where)


def _damaged(why: str) -> DataLoss:
    return DataLoss(f"a segment of an upload is damaged: {why}", hint="abort the upload and send it again")
