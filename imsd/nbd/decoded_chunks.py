"""Chunks of disks as they were decoded, the last ones, of all attachments together.

The one that was decoded first goes first, though it may have been read a moment ago: most are read once,
and what was loaded ahead must outlive what was read.
"""

from __future__ import annotations

from imsd.contract import Buffer

# (number of the disk, where the chunk begins)
ChunkKey = tuple[int, int]


class DecodedChunks:
    """At most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used_bytes = 0
        self._chunks: dict[ChunkKey, Buffer] = {}

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._chunks

    def get(self, key: ChunkKey) -> Buffer | None:
        return self._chunks.get(key)

    def put(self, key: ChunkKey, chunk: Buffer) -> None:
        self._drop(key)
        self._chunks[key] = chunk
        self.used_bytes += len(chunk)
        while self.used_bytes > self.limit:
            self._drop(next(iter(self._chunks)))

    def forget_disk(self, disk: int) -> None:
        for key in [key for key in self._chunks if key[0] == disk]:
            self._drop(key)

    def _drop(self, key: ChunkKey) -> None:
        chunk = self._chunks.pop(key, None)
        if chunk is not None:
            self.used_bytes -= len(chunk)
