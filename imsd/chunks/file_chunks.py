"""The chunks of a file whose bytes are a disk, cut as the daemon would cut them, without a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blake3 import blake3

from .chunker import Chunker, scan_blocks
from .known_chunks import proof_of
from .layout import BLOCK_BYTES
from .tree_digest import TreeHasher


class FileChunk(NamedTuple):
    """``length`` bytes of the file from ``start``; ``digest`` and ``proof`` as in `NamedChunk`."""

    start: int
    length: int
    digest: bytes
    proof: bytes


class FileChunks:
    """Takes a file in order and gives its chunks, each with its proof under ``key``; hashes all of it.

    Holds less than a chunk and what comes at once.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._hasher = TreeHasher()
        self._chunker = Chunker()
        self._held = bytearray()  # from the chunker's boundary on
        self._tail = b""  # of the last block, which is not complete

    def data(self, piece: bytes) -> Iterator[FileChunk]:
        """The next bytes; the chunks that are decided now."""
        self._hasher.update(piece)
        yield from self._feed(piece)

    def zeros(self, length: int) -> Iterator[FileChunk]:
        """The next ``length`` bytes are zero; the chunks that are decided now."""
        self._hasher.zeros(length)
        if self._tail:
            filling = min(-len(self._tail) % BLOCK_BYTES, length)
            yield from self._feed(bytes(filling))
            length -= filling
        blocks, rest = divmod(length, BLOCK_BYTES)
        if blocks:
            decided = self._chunker.zeros(blocks)
            yield from self._cut(decided, blocks * BLOCK_BYTES)
        yield from self._feed(bytes(rest))

    def end(self) -> Iterator[FileChunk]:
        """The file ends here; the last chunk, unless the file ends inside its last block."""
        size = self._hasher.position
        last = [*self._feed(bytes(-len(self._tail) % BLOCK_BYTES)), *self._cut(self._chunker.end(), 0)]
        yield from (chunk for chunk in last if chunk.start + chunk.length <= size)

    def digest(self) -> str:
        """The tree digest of all that came."""
        return self._hasher.digest()

    def _feed(self, piece: bytes) -> Iterator[FileChunk]:
        content = self._tail + piece if self._tail else piece
        whole = len(content) // BLOCK_BYTES * BLOCK_BYTES
        self._tail = content[whole:]
        if whole:
            with memoryview(content)[:whole] as blocks:
                self._held += blocks
                decided = self._chunker.feed(scan_blocks(blocks))
            yield from self._cut(decided, 0)

    def _cut(self, decided: list[tuple[int, int]], zero_bytes: int) -> Iterator[FileChunk]:
        """The chunks at ``decided``, in blocks; ``zero_bytes`` came after what is held."""
        end = self._chunker.position * BLOCK_BYTES
        begin = end - zero_bytes - len(self._held)
        for first, blocks in decided:
            start = first * BLOCK_BYTES
            content = bytes(self._held[start - begin : start - begin + blocks * BLOCK_BYTES])
            yield FileChunk(start, len(content), blake3(content).digest(), proof_of(content, self._key))
        boundary = self._chunker.boundary * BLOCK_BYTES
        del self._held[: boundary - begin]
        if self._held or boundary < end:
            self._held += bytes(end - boundary - len(self._held))
