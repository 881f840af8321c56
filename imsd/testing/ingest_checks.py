"""The part of the suite of blob stores that is about writing; see `blob_store_suite`."""

from __future__ import annotations

import asyncio
import gc
import random
from datetime import UTC, datetime, timedelta

import pytest

from imsd.contract import (
    AlreadyExists,
    BlobStore,
    Buffer,
    ByteRange,
    DataLoss,
    Ingest,
    NotFound,
    StoredBlob,
    blob_id,
)

MIB = 1 << 20
BLOB = blob_id("00d1e5")


async def put(store: BlobStore, blob: str, *writes: Buffer) -> StoredBlob:
    """Commit a blob, one call of `Ingest.write` for each of ``writes``."""
    async with store.begin(blob_id(blob)) as ingest:
        for buffer in writes:
            await ingest.write([buffer])
        return await ingest.commit()


async def ids(store: BlobStore, prefix: str = "", after: str = "") -> list[str]:
    """The ids that `BlobStore.list` gives, in its order."""
    return [stored.id async for stored in store.list(prefix, after)]


async def cancel_after(turns: int, task: asyncio.Task[object]) -> None:
    """Let ``task`` run for some turns of the loop, cancel it, and wait for its end."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


class IngestChecks:
    """Writing: what is visible, when, and what is left of an ingest that ends otherwise."""

    def kept(self, written: bytes) -> bytes:
        """What a read gives for ``written``. Only a store that keeps no bytes overrides this."""
        return written

    async def content(self, store: BlobStore, blob: str) -> bytes:
        """The whole of a blob that is not empty."""
        stored = await store.stat(blob_id(blob))
        return (await store.read(stored.id, [ByteRange(0, stored.size_bytes)]))[0]

    async def test_what_was_written_is_read_back(self, store: BlobStore) -> None:
        await put(store, BLOB, b"boot", b" ", b"sector")
        assert await self.content(store, BLOB) == self.kept(b"boot sector")

    async def test_commit_and_stat_and_list_tell_the_same(self, store: BlobStore) -> None:
        before = datetime.now(UTC) - timedelta(minutes=2)  # another machine's clock may differ a little
        committed = await put(store, BLOB, b"boot sector")
        assert committed == await store.stat(BLOB)
        assert [committed] == [stored async for stored in store.list()]
        assert (committed.id, committed.size_bytes) == (BLOB, 11)
        assert committed.modified_at.utcoffset() == timedelta(0)
        assert before < committed.modified_at < before + timedelta(minutes=4)

    async def test_an_ingest_is_invisible_until_committed(self, store: BlobStore) -> None:
        async with store.begin(BLOB) as ingest:
            await ingest.write([b"half an ima"])
            with pytest.raises(NotFound):
                await store.stat(BLOB)
            with pytest.raises(NotFound):
                await store.read(BLOB, [ByteRange(0, 1)])
            assert await ids(store) == []
            await ingest.commit()
            assert await ids(store) == [BLOB]

    async def test_leaving_an_ingest_without_commit_discards_it(self, store: BlobStore) -> None:
        async with store.begin(BLOB) as ingest:
            await ingest.write([b"half an ima"])
        assert await ids(store) == []
        await put(store, BLOB, b"whole")
        assert await self.content(store, BLOB) == self.kept(b"whole")

    async def test_an_exception_in_an_ingest_discards_it(self, store: BlobStore) -> None:
        async def fail() -> None:
            async with store.begin(BLOB) as ingest:
                await ingest.write([b"half an ima"])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await ids(store) == []

    async def test_cancelling_an_ingest_discards_it(self, store: BlobStore) -> None:
        written = asyncio.Event()

        async def stall() -> None:
            async with store.begin(BLOB) as ingest:
                await ingest.write([b"half an ima"])
                written.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(stall())
        await written.wait()
        await cancel_after(0, task)
        assert task.cancelled()
        assert await ids(store) == []
        await put(store, BLOB, b"whole")

    async def test_the_first_commit_wins(self, store: BlobStore) -> None:
        if not store.capabilities.put_if_absent:
            pytest.skip("the store does not offer put_if_absent")
        async with store.begin(BLOB) as late:
            await late.write([b"second"])
            await put(store, BLOB, b"first")
            with pytest.raises(AlreadyExists):
                await late.commit()
        assert await self.content(store, BLOB) == self.kept(b"first")

    async def test_of_many_commits_under_one_id_exactly_one_wins(self, store: BlobStore) -> None:
        if not store.capabilities.put_if_absent:
            pytest.skip("the store does not offer put_if_absent")
        contents = [bytes([number]) * (1000 + number) for number in range(16)]
        outcomes = await asyncio.gather(
            *(put(store, BLOB, content) for content in contents), return_exceptions=True
        )
        winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, StoredBlob)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 15
        assert await self.content(store, BLOB) == self.kept(contents[winners[0]])

    async def test_an_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        assert (await put(store, BLOB)).size_bytes == 0
        assert (await put(store, "with-empty-writes", b"", b"")).size_bytes == 0
        assert (await store.stat(BLOB)).size_bytes == 0
        assert await ids(store) == [BLOB, "with-empty-writes"]
        with pytest.raises(DataLoss):
            await store.read(BLOB, [ByteRange(0, 1)])

    async def test_many_buffers_of_every_kind_go_in_one_write(self, store: BlobStore) -> None:
        content = random.Random(7).randbytes(3000)
        kinds = [bytes, bytearray, memoryview]
        buffers: list[Buffer] = [kinds[i % 3](content[i : i + 1]) for i in range(2999)]
        async with store.begin(BLOB) as ingest:
            await ingest.write([])
            await ingest.write([*buffers, b"", memoryview(content)[2999:]])
            await ingest.commit()
        assert await self.content(store, BLOB) == self.kept(content)

    async def test_a_buffer_may_be_reused_when_write_returns(self, store: BlobStore) -> None:
        buffer = bytearray(256 << 10)
        async with store.begin(BLOB) as ingest:
            for number in range(8):
                buffer[:] = bytes([number]) * len(buffer)
                await ingest.write([memoryview(buffer)])
            buffer[:] = b"\xee" * len(buffer)
            await ingest.commit()
        expected = b"".join(bytes([number]) * len(buffer) for number in range(8))
        assert await self.content(store, BLOB) == self.kept(expected)

    async def test_a_pack_of_64_mib_is_stored_in_many_writes(self, store: BlobStore) -> None:
        block = random.Random(11).randbytes(MIB)
        stored = await put(store, "packs/0a/0a11", *(bytes([n]) + block[1:] for n in range(64)))
        assert stored.size_bytes == 64 * MIB
        starts = await store.read(stored.id, [ByteRange(n * MIB, 4) for n in range(64)])
        assert starts == [self.kept(bytes([n]) + block[1:4]) for n in range(64)]
        assert (await store.read(stored.id, [ByteRange(31 * MIB + 1, MIB - 1)]))[0] == self.kept(block[1:])

    async def test_many_ingests_run_at_once(self, store: BlobStore) -> None:
        contents = {f"packs/{n:02x}/{n}": bytes([n]) * (64 << 10) for n in range(32)}
        await asyncio.gather(*(put(store, blob, *[piece] * 4) for blob, piece in contents.items()))
        assert await ids(store) == sorted(contents)
        for blob, piece in contents.items():
            assert await self.content(store, blob) == self.kept(piece * 4)

    @pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
    async def test_a_cancelled_write_lets_go_of_the_buffer(self, store: BlobStore, turns: int) -> None:
        buffer = bytearray(4 * MIB)

        async def write(ingest: Ingest) -> None:
            await ingest.write([buffer])

        async with store.begin(BLOB) as ingest:
            task = asyncio.create_task(write(ingest))
            await cancel_after(turns, task)
            del task
        gc.collect()
        buffer.clear()  # BufferError while anybody, in any thread, still looks at it
        assert await ids(store) == []
        await put(store, BLOB, b"whole")
        assert await self.content(store, BLOB) == self.kept(b"whole")

    @pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
    async def test_a_cancelled_commit_leaves_all_or_nothing(self, store: BlobStore, turns: int) -> None:
        async def commit(ingest: Ingest) -> None:
            await ingest.commit()

        async with store.begin(BLOB) as ingest:
            await ingest.write([b"whole"])
            await cancel_after(turns, asyncio.create_task(commit(ingest)))
        visible = await ids(store)
        assert visible in ([], [BLOB])
        if not visible:
            await put(store, BLOB, b"whole")
        assert await self.content(store, BLOB) == self.kept(b"whole")

    @pytest.mark.parametrize(
        "blob",
        [
            "0",
            "_",
            "a..b",
            "Z",
            "a" * 255,
            "/".join("a" * 128),
            f"{'a' * 99}/{'b' * 155}",
            "0/-/_.-",
            "De/Bian.Q",
        ],
    )
    async def test_ids_at_the_limits_are_ids(self, store: BlobStore, blob: str) -> None:
        stored = await put(store, blob, b"content")
        assert await store.stat(blob_id(blob)) == stored
        assert await self.content(store, blob) == self.kept(b"content")
        assert await ids(store) == [blob]
        await store.delete(blob_id(blob))
        assert await ids(store) == []
