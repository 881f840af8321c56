"""What every blob store must do: the contract of `imsd.contract.blob_store` as checks.

A driver's author subclasses `BlobStoreSuite` in a test file, with a fixture ``store`` that yields an
opened, empty store::

    class TestMyStore(BlobStoreSuite):
        @pytest.fixture
        async def store(self, tmp_path):
            async with open_my_store(MyOptions(path=tmp_path)) as store:
                yield store

It needs pytest and pytest-asyncio (``asyncio_mode = "auto"``). The same checks run on drivers, on
wrappers and on a store at the other end of a wire: all must agree.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from imsd.contract import (
    AlreadyExists,
    BlobId,
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


class BlobStoreSuite(IngestChecks):
    """All checks: those of `IngestChecks`, and reading, listing, deleting."""

    async def test_ranges_come_in_the_order_asked(self, store: BlobStore) -> None:
        content = random.Random(3).randbytes(100_000)
        await put(store, BLOB, content)
        asked: Sequence[tuple[int, int]] = [(99_999, 1), (0, 10), (5, 10), (0, 10), (50_000, 50_000), (1, 1)]
        pieces = await store.read(BLOB, [ByteRange(offset, length) for offset, length in asked])
        assert pieces == [self.kept(content[offset : offset + length]) for offset, length in asked]

    async def test_a_thousand_ranges_are_one_call(self, store: BlobStore) -> None:
        content = random.Random(5).randbytes(64_000)
        await put(store, BLOB, content)
        pieces = await store.read(BLOB, [ByteRange(offset, 64) for offset in range(0, 64_000, 64)])
        assert b"".join(pieces) == self.kept(content)

    async def test_no_ranges_are_no_bytes(self, store: BlobStore) -> None:
        await put(store, BLOB, b"content")
        assert await store.read(BLOB, []) == []

    @pytest.mark.parametrize(("offset", "length"), [(0, 8), (6, 2), (7, 1), (1 << 40, 1), (0, 1 << 40)])
    async def test_a_range_beyond_the_end_is_lost_data(
        self, store: BlobStore, offset: int, length: int
    ) -> None:
        await put(store, BLOB, b"content")
        with pytest.raises(DataLoss):
            await store.read(BLOB, [ByteRange(0, 1), ByteRange(offset, length)])

    @pytest.mark.parametrize("blob", ["missing", "00d1e5/missing", "folder", "folder/missing/deeper"])
    async def test_a_missing_blob_is_not_found(self, store: BlobStore, blob: str) -> None:
        await put(store, BLOB, b"content")
        await put(store, "folder/blob", b"content")
        with pytest.raises(NotFound):
            await store.stat(blob_id(blob))
        with pytest.raises(NotFound):
            await store.read(blob_id(blob), [ByteRange(0, 1)])
        await store.delete(blob_id(blob))
        assert await ids(store) == [BLOB, "folder/blob"]

    async def test_a_deleted_blob_is_gone(self, store: BlobStore) -> None:
        await put(store, BLOB, b"content")
        await self.content(store, BLOB)  # whatever a store keeps of a blob that was read must go too
        await store.delete(BLOB)
        assert await ids(store) == []
        with pytest.raises(NotFound):
            await store.stat(BLOB)
        with pytest.raises(NotFound):
            await store.read(BLOB, [ByteRange(0, 1)])
        await store.delete(BLOB)

    async def test_an_id_that_is_free_again_holds_new_bytes(self, store: BlobStore) -> None:
        await put(store, "folder/blob", b"old")
        assert await self.content(store, "folder/blob") == self.kept(b"old")
        await store.delete(BlobId("folder/blob"))
        await put(store, "folder/blob", b"new bytes")
        assert await self.content(store, "folder/blob") == self.kept(b"new bytes")

    async def test_a_version_tells_two_blobs_of_one_id_apart(self, store: BlobStore) -> None:
        old = await put(store, BLOB, b"as long")
        assert len(old.version) <= 200
        assert (await store.stat(BLOB)).version == old.version
        await store.delete(BLOB)
        new = await put(store, BLOB, b"as well")
        if not old.version:
            pytest.skip("the store has no versions")
        assert new.version != old.version

    async def test_upper_and_lower_case_are_two_ids(self, store: BlobStore) -> None:
        await put(store, "Folder/Blob", b"upper")
        await put(store, "folder/blob", b"lower")
        assert await self.content(store, "Folder/Blob") == self.kept(b"upper")
        assert await ids(store) == ["Folder/Blob", "folder/blob"]
        await store.delete(BlobId("folder/blob"))
        assert await ids(store) == ["Folder/Blob"]

    async def test_a_folder_may_lose_its_last_blob_while_others_come(self, store: BlobStore) -> None:
        async def come_and_go(number: int) -> None:
            for _ in range(10):
                await put(store, f"folder/sub/{number}", b"content")
                await store.delete(BlobId(f"folder/sub/{number}"))

        await asyncio.gather(*(come_and_go(number) for number in range(4)))
        assert await ids(store) == []

    async def test_a_read_beside_a_delete_gives_all_or_an_error(self, store: BlobStore) -> None:
        content = random.Random(13).randbytes(MIB)
        for _ in range(5):
            await put(store, BLOB, content)
            reads = [store.read(BLOB, [ByteRange(0, MIB)]) for _ in range(4)]
            *outcomes, _ = await asyncio.gather(*reads, store.delete(BLOB), return_exceptions=True)
            for outcome in outcomes:
                assert outcome == [self.kept(content)] or isinstance(outcome, NotFound | DataLoss)
            assert await ids(store) == []

    async def test_a_list_is_in_the_order_of_ids(self, store: BlobStore) -> None:
        # '-' and '.' sort before '/', digits and letters after it: folders do not sort as their names do
        blobs = [
            "a-b",
            "a.b",
            "a/b",
            "a/b-c",
            "a0b",
            "b/0/c",
            "b/0-c",
            "b/00",
            "ab",
            "a_b",
            "b-/c",
            "0",
            "A/b",
        ]
        for blob in random.Random(17).sample(blobs, len(blobs)):
            await put(store, blob, b"x")
        assert await ids(store) == sorted(blobs)

    async def test_a_list_starts_with_its_prefix(self, store: BlobStore) -> None:
        for blob in ["packs/0a/0a1", "packs/0a/0a2", "packs/0b/0b1", "packs-old/1", "manifests/9/content"]:
            await put(store, blob, b"x")
        assert await ids(store, "packs/") == ["packs/0a/0a1", "packs/0a/0a2", "packs/0b/0b1"]
        assert await ids(store, "packs/0a/0a") == ["packs/0a/0a1", "packs/0a/0a2"]
        assert await ids(store, "pa") == ["packs-old/1", "packs/0a/0a1", "packs/0a/0a2", "packs/0b/0b1"]
        assert await ids(store, "packs/0b/0b1") == ["packs/0b/0b1"]
        for prefix in ["packs/0c/", "packs/0a/0a1/", "q", "..", "/"]:
            assert await ids(store, prefix) == []

    async def test_a_list_goes_on_after_an_id(self, store: BlobStore) -> None:
        blobs = sorted(f"{folder}/{n:02}" for folder in ["p", "p-q", "p/r"] for n in range(5))
        for blob in blobs:
            await put(store, blob, b"x")
        for after in [*blobs, "", "o", "p", "p/", "p/02x", "p-q/99", "p/r/", "q"]:
            assert await ids(store, after=after) == [blob for blob in blobs if blob > after]
        assert await ids(store, "p/", after="p/03") == [f"p/{n:02}" for n in (4,)] + [
            f"p/r/{n:02}" for n in range(5)
        ]
        assert await ids(store, "p-", after="p/") == []

    async def test_a_list_beside_changes_gives_the_others_exactly_once(self, store: BlobStore) -> None:
        stable = [f"{n % 4}/{n:02}" for n in range(20)]
        for blob in stable:
            await put(store, blob, b"x")

        async def change() -> None:
            for n in range(20):
                await put(store, f"{n % 4}/new-{n:02}", b"x")
                await store.delete(BlobId(f"{n % 4}/new-{n:02}"))

        changing = asyncio.create_task(change())
        while not changing.done():
            await asyncio.sleep(0)
            assert [blob for blob in await ids(store) if "new" not in blob] == sorted(stable)
        await changing

    async def test_a_list_may_be_left_early(self, store: BlobStore) -> None:
        for n in range(5):
            await put(store, f"folder/{n}", b"x")
        listing = store.list()
        assert (await anext(listing)).id == "folder/0"
        await listing.aclose()  # type: ignore[attr-defined]  # every async generator has it
        assert len(await ids(store)) == 5

    async def test_usage_follows_what_is_stored(self, store: BlobStore) -> None:
        before = await store.usage()
        await put(store, BLOB, random.Random(19).randbytes(MIB))
        full = await store.usage()
        await store.delete(BLOB)
        after = await store.usage()
        for number in (before.used_bytes, before.free_bytes, full.free_bytes):
            assert number is None or number >= 0
        if before.used_bytes is not None and full.used_bytes is not None:
            assert full.used_bytes - before.used_bytes >= MIB
            assert after.used_bytes == before.used_bytes
