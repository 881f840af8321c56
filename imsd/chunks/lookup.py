"""Looks chunks up in the dedup index; look-ups that wait for each other become one.

A transaction costs far more than one more digest in it, and windows of known chunks follow each other
faster than the index answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .index import ChunkIndex, Holder, Location

# What `ChunkIndex.find` takes at once.
MAX_DIGESTS = 4096


@dataclass(eq=False, slots=True)
class _Request:
    digests: Sequence[bytes]
    answer: Mapping[bytes, Location] | None = None


class ChunkLookup:
    """Finds chunks of a store and domain on behalf of one holder; any number of tasks may ask at once."""

    def __init__(self, index: ChunkIndex, store: str, domain: str, holder: Holder) -> None:
        self._index = index
        self._store = store
        self._domain = domain
        self._holder = holder
        self._requests: deque[_Request] = deque()
        self._lock = asyncio.Lock()

    async def find(self, digests: Sequence[bytes]) -> Mapping[bytes, Location]:
        """As `ChunkIndex.find`; what others asked for at the same time may be in the answer too."""
        request = _Request(digests)
        self._requests.append(request)
        async with self._lock:
            if request.answer is None:  # not answered together with one that came before
                batch = self._take_batch(request)
                wanted = list(dict.fromkeys(digest for asked in batch for digest in asked.digests))
                found = await self._index.find(self._holder, self._store, self._domain, wanted)
                for asked in batch:
                    asked.answer = found
            assert request.answer is not None
            return request.answer

    def _take_batch(self, first: _Request) -> list[_Request]:
        """``first``, which an earlier failed batch may have taken off, and as many more as fit."""
        if first in self._requests:
            self._requests.remove(first)
        batch, count = [first], len(first.digests)
        while self._requests and count + len(self._requests[0].digests) <= MAX_DIGESTS:
            count += len(self._requests[0].digests)
            batch.append(self._requests.popleft())
        return batch
