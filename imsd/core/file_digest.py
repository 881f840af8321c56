"""The digests of a file, made in one pass: its windows are read and hashed ahead of their turn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.render import in_order
from imsd.chunks.tree_digest import HashedWindow, TreeHasher, hash_window
from imsd.contract import ByteRange
from imsd.formats.source import ByteSource

# Read at once.
WINDOW_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class PartDigest:
    """The digest of bytes ``start`` to ``end`` of a file, by a ``hasher`` that takes them in order."""

    start: int
    end: int
    hasher: hashlib._Hash

    def take(self, offset: int, content: memoryview) -> None:
        """What of ``content``, the bytes of the file from ``offset`` on, is in the part."""
        first, end = max(self.start - offset, 0), min(self.end - offset, len(content))
        if first < end:
            self.hasher.update(content[first:end])


async def digest_of(
    pool: DecodePool,
    file: ByteSource,
    on_progress: Callable[[int], None],
    parts: Sequence[PartDigest] = (),
) -> str:
    """The tree digest of a file; ``parts`` take the same bytes.

    ``on_progress`` is called with the bytes that are done. Raises what reading raises.
    """
    tree = TreeHasher()
    # To the tree, a hole is nothing.
    spans = [ByteRange(0, file.size_bytes)] if parts else file.data_ranges()
    calls = (partial(pool.run, _read, file, window) for window in _windows(spans))
    async with aclosing(in_order(pool, calls, lambda read: len(read[1]))) as windows:
        async for window, content in windows:
            tree.add_window(window)
            if parts:
                await pool.run(_take, parts, window.start, content)
            on_progress(tree.position)
    tree.zeros(file.size_bytes - tree.position)
    return tree.digest()


def _windows(spans: Iterable[ByteRange]) -> Iterator[ByteRange]:
    for span in spans:
        for start in range(span.offset, span.end, WINDOW_BYTES):
            yield ByteRange(start, min(WINDOW_BYTES, span.end - start))


def _read(file: ByteSource, window: ByteRange) -> tuple[HashedWindow, memoryview]:
    content = memoryview(file.read(window.offset, window.length))
    return hash_window(window.offset, content), content


def _take(parts: Sequence[PartDigest], offset: int, content: memoryview) -> None:
    for part in parts:
        part.take(offset, content)
