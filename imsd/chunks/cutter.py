"""Cuts the windows of one disk, in order, into chunks and leaves of the digest tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from .buffers import Window
from .chunker import BlockMarks, Chunker
from .cipher import ChunkCipher
from .layout import BLOCK_BYTES
from .tree_digest import LEAF_BYTES, ZERO_DIGESTS, leaf_digest


@dataclass(frozen=True, slots=True)
class Cut:
    """What is decided of a disk: ``chunks`` as (start, length), then leaves, all inside ``content``.

    ``content``: the disk's bytes from ``base``. ``leaf_end``: where the whole leaves from ``base`` end;
    ``zero_leaves`` follow, then ``tail``, the disk's last bytes, less than a leaf. ``is_spare``: nobody needs
    the content once its chunks are digested and encoded.
    """

    content: memoryview
    base: int
    chunks: list[tuple[int, int]]
    leaf_end: int
    zero_leaves: int = 0
    tail: bytes = b""
    is_spare: bool = False

    def chunk(self, start: int, length: int) -> memoryview:
        return self.content[start - self.base : start - self.base + length]


class Cutter:
    """Knows where the disk stands; all numbers are bytes.

    Everything before ``boundary`` is decided: a cutter that starts there, with ``carry`` being the
    bytes before it in its leaf, goes on in the same way. ``position`` is a multiple of 4 KiB.
    """

    def __init__(self, boundary: int, carry: bytes) -> None:
        self._chunker = Chunker(boundary // BLOCK_BYTES)
        self._base = boundary - len(carry)
        self._carry = carry  # from the leaf of the boundary to the position

    @property
    def position(self) -> int:
        return self._chunker.position * BLOCK_BYTES

    @property
    def boundary(self) -> int:
        return self._chunker.boundary * BLOCK_BYTES

    @property
    def started_leaf(self) -> bytes:
        """The bytes before the boundary in its leaf."""
        return self._carry[: self.boundary - self._base]

    @property
    def undecided(self) -> bytes:
        """The bytes from the boundary to the position."""
        return self._carry[self.boundary - self._base :]

    def window(self, window: Window, marks: BlockMarks) -> Cut:
        """The next window; ``marks`` are those of its blocks."""
        if window.start != self.position:
            raise ValueError(f"a window from {window.start} follows position {self.position}")
        content = window.prepend(self._carry)
        base = self._base
        chunks = self._in_bytes(self._chunker.feed(marks), window.end)
        # The last block of the disk may be padded, and the padding is no part of its leaf.
        self._base = min(self.boundary, window.end) // LEAF_BYTES * LEAF_BYTES
        self._carry = bytes(content[self._base - base :])
        return Cut(content, base, chunks, self._base, is_spare=True)

    def zeros(self, length: int) -> Cut:
        """The next ``length`` bytes are zero; they are whole leaves."""
        if self.position % LEAF_BYTES or length % LEAF_BYTES:
            raise ValueError(f"{length} zero bytes from {self.position} are no whole leaves")
        start = self.position
        chunks = self._in_bytes(self._chunker.zeros(length // BLOCK_BYTES), start)
        cut = Cut(memoryview(self._carry), self._base, chunks, start, length // LEAF_BYTES)
        self._base, self._carry = self.position, b""
        return cut

    def end(self, size_bytes: int) -> Cut:
        """The disk ends at ``size_bytes``, inside the last block."""
        chunks = self._in_bytes(self._chunker.end(), size_bytes)
        leaf_end = size_bytes // LEAF_BYTES * LEAF_BYTES
        tail = self._carry[leaf_end - self._base : size_bytes - self._base]
        return Cut(memoryview(self._carry), self._base, chunks, leaf_end, tail=tail)

    @staticmethod
    def _in_bytes(chunks: Iterable[tuple[int, int]], end: int) -> list[tuple[int, int]]:
        """(start, length) in bytes; a chunk does not reach beyond ``end``, where the disk may end."""
        return [
            (first * BLOCK_BYTES, min((first + blocks) * BLOCK_BYTES, end) - first * BLOCK_BYTES)
            for first, blocks in chunks
        ]


def digest_cut(cut: Cut, cipher: ChunkCipher | None = None) -> tuple[list[bytes], list[bytes]]:
    """The digests of the chunks and of the leaves of ``cut``; those of chunks keyed by ``cipher``."""
    touched = {cut.base // LEAF_BYTES}  # the first leaf may hold the end of an earlier chunk
    for start, length in cut.chunks:
        touched.update(range(start // LEAF_BYTES, (start + length - 1) // LEAF_BYTES + 1))
    leaves = [
        # A leaf without a part of a chunk is all zeros.
        leaf_digest(cut.chunk(start, LEAF_BYTES)) if start // LEAF_BYTES in touched else ZERO_DIGESTS[0]
        for start in range(cut.base, cut.leaf_end, LEAF_BYTES)
    ]
    if cipher:
        return [cipher.chunk_digest(start, cut.chunk(start, length)) for start, length in cut.chunks], leaves
    return [blake3(cut.chunk(start, length)).digest() for start, length in cut.chunks], leaves
