"""The packs of a manifest as one file, from which chunks are fetched."""

from __future__ import annotations

from collections.abc import Sequence

from imsd.contract import BlobId, BlobStore, ByteRange

from .fetched_segments import SegmentSource
from .index import pack_blob
from .manifest_reader import StoredChunk
from .store_read import read_blobs

# All packs of a manifest make one address space: pack number n begins at n << PACK_SHIFT. Offsets in a
# pack fit 32 bits and packs are far shorter, so ranges of two packs never touch.
PACK_SHIFT = 32


class PackSource(SegmentSource):
    """The packs that a manifest lists, as one file."""

    # Two chunks of one file system often lie with a chunk of something else between them.
    coalesce_gap_bytes = 64 << 10

    def __init__(self, store: BlobStore, pack_ids: Sequence[str]) -> None:
        super().__init__(len(pack_ids) << PACK_SHIFT)
        self._store = store
        self._blobs = [pack_blob(pack_id) for pack_id in pack_ids]

    def place(self, chunk: StoredChunk) -> ByteRange:
        return ByteRange((chunk.pack << PACK_SHIFT) + chunk.offset, chunk.stored_length)

    def blob(self, chunk: StoredChunk) -> BlobId:
        return self._blobs[chunk.pack]

    async def _load(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        wanted: dict[BlobId, list[ByteRange]] = {}
        for place in ranges:
            number = place.offset >> PACK_SHIFT
            inside = ByteRange(place.offset - (number << PACK_SHIFT), place.length)
            wanted.setdefault(self._blobs[number], []).append(inside)
        loaded = await read_blobs(self._store, wanted)
        return [piece for blob in wanted for piece in loaded[blob]]
