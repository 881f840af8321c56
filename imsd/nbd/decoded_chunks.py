"""Chunks of disks as they were decoded, the last ones used, of all attachments together."""

from __future__ import annotations

from collections import OrderedDict

from imsd.contract import Buffer

# (number of the disk, where the chunk begins)
ChunkKey = tuple[int, int]


class DecodedChunks:
    """At most ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used_bytes = 0
        self._chunks: OrderedDict[ChunkKey, Buffer] = OrderedDict()

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._chunks

    def get(self, key: ChunkKey) -> Buffer | None:
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
        return chunk

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
