"""The tree digest of a file, hashed window by window in the decode pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing
from functools import partial

from imsd.chunks.decode_pool import DecodePool
from imsd.chunks.render import in_order
from imsd.chunks.tree_digest import HashedWindow, TreeHasher, hash_window
from imsd.contract import ByteRange
from imsd.formats.source import ByteSource

# Read at once.
WINDOW_BYTES = 4 << 20


async def digest_of(pool: DecodePool, file: ByteSource, on_progress: Callable[[int], None]) -> str:
    """``on_progress`` is called with the bytes that are done. Raises what reading raises."""
    hasher = TreeHasher()
    calls = (partial(pool.run, _hash, file, window) for window in _windows(file))
    async with aclosing(in_order(pool, calls, lambda _: 0)) as windows:
        async for window in windows:
            hasher.add_window(window)
            on_progress(hasher.position)
    hasher.zeros(file.size_bytes - hasher.position)
    return hasher.digest()


def _windows(file: ByteSource) -> Iterator[ByteRange]:
    for span in file.data_ranges():
        for start in range(span.offset, span.end, WINDOW_BYTES):
            yield ByteRange(start, min(WINDOW_BYTES, span.end - start))


def _hash(file: ByteSource, window: ByteRange) -> HashedWindow:
    return hash_window(window.offset, memoryview(file.read(window.offset, window.length)))
