"""The tree digest of a whole disk, without a daemon: several threads, bounded memory, holes for free."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from imsd.formats.source import BlockSource

from .tree_digest import LEAF_BYTES, ZERO_DIGESTS, TreeHasher, leaf_digest
from .window_plan import MIN_LOOK_BYTES, Span, next_look, plan_spans

# Beyond a few threads, memory is the limit.
MAX_THREADS = 8


def digest_blocks(
    blocks: BlockSource, *, threads: int | None = None, on_progress: Callable[[int], None] | None = None
) -> str:
    """The tree digest of ``blocks``, in text form.

    ``threads``: how many read and hash, one a core if None; each holds two windows of 4 MiB at most.
    ``on_progress`` is called with the bytes done. The source must have its bytes: raises what it
    raises, `NeedBytes` included.
    """
    threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
    hasher = TreeHasher()
    waiting: deque[tuple[Span, Future[tuple[list[bytes], bytes]]]] = deque()
    with ThreadPoolExecutor(threads, "digest") as executor:
        try:
            for span in _all_spans(blocks):
                waiting.append((span, executor.submit(_hash_span, blocks, span)))
                while len(waiting) > 2 * threads:
                    _take(hasher, *waiting.popleft(), on_progress)
            while waiting:
                _take(hasher, *waiting.popleft(), on_progress)
        finally:
            executor.shutdown(cancel_futures=True)
    return hasher.digest()


def _all_spans(blocks: BlockSource) -> Iterator[Span]:
    position, look = 0, MIN_LOOK_BYTES
    while position < blocks.size_bytes:
        length = min(look, blocks.size_bytes - position)
        spans = plan_spans(blocks, position, length)
        yield from spans
        position, look = position + length, next_look(look, spans)


def _hash_span(blocks: BlockSource, span: Span) -> tuple[list[bytes], bytes]:
    """The digests of the whole leaves, and the bytes after them."""
    if span.is_zero:
        return [], b""
    content = memoryview(bytearray(span.length))
    blocks.read_into(span.start, content)
    whole = span.length // LEAF_BYTES * LEAF_BYTES
    words = np.frombuffer(content[:whole], "<u8").reshape(-1, LEAF_BYTES // 8)
    holds_data: list[bool] = np.any(words, axis=1).tolist()
    leaves = [
        leaf_digest(content[start : start + LEAF_BYTES]) if is_data else ZERO_DIGESTS[0]
        for start, is_data in zip(range(0, whole, LEAF_BYTES), holds_data, strict=True)
    ]
    return leaves, bytes(content[whole:])


def _take(
    hasher: TreeHasher,
    span: Span,
    work: Future[tuple[list[bytes], bytes]],
    on_progress: Callable[[int], None] | None,
) -> None:
    leaves, tail = work.result()
    if span.is_zero:
        hasher.zeros(span.length)
    hasher.add_leaves(leaves)
    hasher.update(tail)
    if on_progress:
        on_progress(span.end)
