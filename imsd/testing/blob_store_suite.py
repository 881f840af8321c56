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
import random
from collections.abc import Sequence

import pytest

from imsd.contract import (
    BlobId,
    BlobStore,
    ByteRange,
    DataLoss,
    NotFound,
    blob_id,
)

from .ingest_checks import BLOB, MIB, IngestChecks, ids, put


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
