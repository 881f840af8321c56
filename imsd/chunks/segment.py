"""Segments: recorded pieces of a manifest.

An upload that is stored while it arrives writes one segment a checkpoint: the entries since the last
one. When it is complete, the manifest is assembled from its segments. All in one blob::

    header | pack table: 16 bytes a pack | content rows | location rows | BLAKE3 of everything before

Rows are those of `layout`, numbers little-endian. The segment of an encrypted image has, instead of the
BLAKE3, a proof for its name (`ChunkCipher.mac`): what the manifest is made of is no more open to who can
write to the store than the manifest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from blake3 import blake3

from imsd.contract import DataLoss

from .cipher import ChunkCipher
from .entry import ChunkEntry, EntrySink
from .entry_rows import EntryRows, can_be
from .layout import CONTENT_ENTRY, LOCATION_ENTRY

# magic, entries, packs
_HEADER = struct.Struct("<16sQQ")
_MAGIC = b"imsd-segment-v2\0"
_PACK_ID_BYTES = 16
_CHECK_BYTES = 32


class SegmentSink(EntrySink):
    """Collects entries until they are taken: those of one checkpoint."""

    def __init__(self) -> None:
        self._entries: list[ChunkEntry] = []

    def __len__(self) -> int:
        return len(self._entries)

    async def add(self, entries: Sequence[ChunkEntry]) -> None:
        self._entries += entries

    def take(self) -> list[ChunkEntry]:
        """What came since the last call."""
        entries, self._entries = self._entries, []
        return entries


def encode_segment(entries: Sequence[ChunkEntry], cipher: ChunkCipher | None = None, name: str = "") -> bytes:
    """``cipher``: of an encrypted image; then ``name``, such as its blob's id, tells it from all others."""
    rows = EntryRows.of(entries)
    packs = b"".join(map(bytes.fromhex, rows.pack_ids))
    header = _HEADER.pack(_MAGIC, len(entries), len(rows.pack_ids))
    segment = b"".join((header, packs, rows.content.tobytes(), rows.locations.tobytes()))
    return segment + _check(segment, cipher, name)


def decode_segment(segment: bytes, cipher: ChunkCipher | None = None, name: str = "") -> EntryRows:
    """Raises DataLoss if ``segment`` is not what `encode_segment` returned for chunks in guest order.

    ``cipher`` and ``name`` as they were then.
    """
    body, check = segment[:-_CHECK_BYTES], segment[-_CHECK_BYTES:]
    if len(body) < _HEADER.size or _check(body, cipher, name) != check:
        raise _damaged("its digest does not match")
    magic, count, pack_count = _HEADER.unpack_from(body)
    content_at = _HEADER.size + pack_count * _PACK_ID_BYTES
    locations_at = content_at + count * CONTENT_ENTRY.itemsize
    if magic != _MAGIC or len(body) != locations_at + count * LOCATION_ENTRY.itemsize:
        raise _damaged("its header contradicts its length")
    packs = [body[at : at + _PACK_ID_BYTES].hex() for at in range(_HEADER.size, content_at, _PACK_ID_BYTES)]
    rows = EntryRows(
        np.frombuffer(body, CONTENT_ENTRY, count, content_at) if count else np.empty(0, CONTENT_ENTRY),
        np.frombuffer(body, LOCATION_ENTRY, count, locations_at) if count else np.empty(0, LOCATION_ENTRY),
        packs,
    )
    if not can_be(rows.content["length"], rows.locations, pack_count, is_sealed=cipher is not None):
        raise _damaged("one of its chunks cannot be")
    if (rows.content["start"][1:] < rows.ends[:-1]).any():
        raise _damaged("its chunks overlap")
    return rows


def _check(segment: bytes, cipher: ChunkCipher | None, name: str) -> bytes:
    return cipher.mac(f"segment {name}", segment) if cipher else blake3(segment).digest()


def _damaged(why: str) -> DataLoss:
    return DataLoss(f"a segment of an upload is damaged: {why}", hint="abort the upload and send it again")
