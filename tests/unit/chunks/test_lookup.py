"""Look-ups that wait for each other become one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from imsd.chunks.index import Codec, Holder, HolderKind, IndexedChunk, Location
from imsd.chunks.lookup import ChunkLookup
from imsd.contract import Conflict
from imsd.testing.memory_index import MemoryChunkIndex

JOB = Holder(HolderKind.JOB, "job-1", 1)
PACK = "0" * 32


class CountingIndex(MemoryChunkIndex):
    """Takes a while, and remembers how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def find(
        self, holder: Holder, store: str, domain: str, digests: Sequence[bytes]
    ) -> Mapping[bytes, Location]:
        self.sizes.append(len(digests))
        await asyncio.sleep(0.01)
        return await super().find(holder, store, domain, digests)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def filled_index() -> CountingIndex:
    index = CountingIndex()
    await index.begin_pack(JOB, PACK, "main")
    chunks = [
        IndexedChunk(digest(n), Location(PACK, n, 1, 1, Codec.RAW, bytes(16))) for n in range(0, 1000, 2)
    ]
    await index.commit_pack(JOB, "d", PACK, 1000, chunks)
    return index


async def test_everybody_gets_the_answer_and_the_index_is_asked_twice() -> None:
    index = await filled_index()
    lookup = ChunkLookup(index, "main", "d", JOB)
    asked = [[digest(n) for n in range(start, start + 10)] for start in range(0, 50, 10)]
    answers = await asyncio.gather(*(lookup.find(digests) for digests in asked))
    for digests, answer in zip(asked, answers, strict=True):
        assert {d for d in digests if d in answer} == set(digests[::2])
    assert index.sizes == [10, 40]


async def test_a_look_up_never_becomes_too_large() -> None:
    index = await filled_index()
    lookup = ChunkLookup(index, "main", "d", JOB)
    asked = [[digest(n) for n in range(start, start + 1500)] for start in range(0, 9000, 1500)]
    await asyncio.gather(*(lookup.find(digests) for digests in asked))
    assert max(index.sizes) <= 4096
    assert sum(index.sizes) == 9000


async def test_a_digest_that_many_ask_for_is_looked_up_once() -> None:
    index = await filled_index()
    lookup = ChunkLookup(index, "main", "d", JOB)
    answers = await asyncio.gather(*(lookup.find([digest(2)]) for _ in range(10)))
    assert all(answer[digest(2)].offset == 2 for answer in answers)
    assert index.sizes == [1, 1]


async def test_an_error_reaches_all_who_asked() -> None:
    index = await filled_index()
    index.fences[(JOB.kind, JOB.id)] = 2
    lookup = ChunkLookup(index, "main", "d", JOB)
    outcomes = await asyncio.gather(*(lookup.find([digest(n)]) for n in range(4)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Conflict] * 4


async def test_one_who_gives_up_does_not_take_the_others_along() -> None:
    index = await filled_index()
    lookup = ChunkLookup(index, "main", "d", JOB)
    tasks = [asyncio.create_task(lookup.find([digest(n)])) for n in range(0, 8, 2)]
    await asyncio.sleep(0.015)  # the first is answered, the second asks for all others
    tasks[1].cancel()
    assert digest(0) in await tasks[0]
    assert digest(6) in await tasks[3]
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert digest(4) in await tasks[2]
