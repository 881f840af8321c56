"""A suite that no store can fail proves nothing: each broken store is caught by the check made for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from imsd.contract import BlobId, BlobStore, Buffer, ByteRange, DataLoss, Ingest, NotFound, StoredBlob
from imsd.promises.promise import BrokenPromise, NotOffered, Place
from imsd.promises.store_promises import STORE_PROMISES
from imsd.testing.blob_store_suite import BlobStoreSuite
from imsd.testing.memory_store import MemoryIngest, MemoryStore


class VisibleEarly(MemoryStore):
    """Publishes with the first write."""

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        async with super().begin(blob) as ingest:
            self.publish(blob, b"half")
            yield ingest


class CommitsWhenLeft(MemoryStore):
    """Takes the end of the block for a commit."""

    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        async with super().begin(blob) as ingest:
            try:
                yield ingest
            finally:
                if blob not in [stored.id async for stored in self.list()]:
                    await ingest.commit()


class LastCommitWins(MemoryStore):
    def publish(self, blob: BlobId, content: bytes) -> StoredBlob:
        self._blobs.pop(blob, None)
        return super().publish(blob, content)


class LazyIngest(MemoryIngest):
    """Looks at the buffers only when it commits."""

    def __init__(self, store: MemoryStore, blob: BlobId) -> None:
        super().__init__(store, blob)
        self.seen: list[Buffer] = []

    async def write(self, buffers: Sequence[Buffer]) -> None:
        self.seen += buffers

    async def commit(self) -> StoredBlob:
        await super().write(self.seen)
        return await super().commit()


class KeepsBuffers(MemoryStore):
    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        yield LazyIngest(self, blob)


class ThreadedIngest(MemoryIngest):
    """Writes in a thread that a cancellation leaves behind, until the test lets it end."""

    may_end = threading.Event()

    async def write(self, buffers: Sequence[Buffer]) -> None:
        started = threading.Event()
        writing = asyncio.get_running_loop().run_in_executor(None, slowly, buffers[0], started)
        started.wait(10)
        await writing
        await super().write(buffers)


def slowly(buffer: Buffer, started: threading.Event) -> None:
    with memoryview(buffer):
        started.set()
        ThreadedIngest.may_end.wait(60)


class LeavesThreadsBehind(MemoryStore):
    @asynccontextmanager
    async def begin(self, blob: BlobId) -> AsyncIterator[Ingest]:
        yield ThreadedIngest(self, blob)


class ListsByFolder(MemoryStore):
    """In the order of a walk through directories: '/' before every other character."""

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        found = [stored async for stored in super().list(prefix, after)]
        for stored in sorted(found, key=lambda stored: stored.id.split("/")):
            yield stored


class ListsFromAfterOn(MemoryStore):
    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        async for stored in super().list(prefix):
            if stored.id >= after:
                yield stored


class TakesPrefixesForFolders(MemoryStore):
    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        async for stored in super().list(prefix, after):
            if not prefix or prefix.endswith("/") or stored.id.startswith(prefix + "/"):
                yield stored


class ListsOnlyFullBlobs(MemoryStore):
    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[StoredBlob]:
        async for stored in super().list(prefix, after):
            if stored.size_bytes:
                yield stored


class ReadsShort(MemoryStore):
    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        size_bytes = (await self.stat(blob)).size_bytes
        inside = [ByteRange(r.offset, max(0, min(r.length, size_bytes - r.offset))) for r in ranges]
        return await super().read(blob, inside)


class SortsRanges(MemoryStore):
    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        return await super().read(blob, sorted(ranges, key=lambda asked: asked.offset))


class RemembersTheDead(MemoryStore):
    """Reads from what it read before, whether the blob is still there or not."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[BlobId, bytes] = {}

    async def read(self, blob: BlobId, ranges: Sequence[ByteRange]) -> list[bytes]:
        if blob not in self.cache:
            size_bytes = (await self.stat(blob)).size_bytes
            (self.cache[blob],) = await super().read(blob, [ByteRange(0, size_bytes)])
        return [self.cache[blob][asked.offset : asked.end] for asked in ranges]


class DeletesOnce(MemoryStore):
    async def delete(self, blob: BlobId) -> None:
        await self.stat(blob)
        await super().delete(blob)


class ConfusesErrors(MemoryStore):
    async def stat(self, blob: BlobId) -> StoredBlob:
        try:
            return await super().stat(blob)
        except NotFound as error:
            raise DataLoss(error.message) from error


class KeepsTheRoom(MemoryStore):
    def give_back_room(self, size_bytes: int) -> None:
        return

    async def delete(self, blob: BlobId) -> None:
        self._blobs.pop(blob, None)


CASES: list[tuple[type[MemoryStore], str]] = [
    (VisibleEarly, "an_ingest_is_invisible_until_committed"),
    (CommitsWhenLeft, "leaving_an_ingest_without_commit_discards_it"),
    (CommitsWhenLeft, "an_exception_in_an_ingest_discards_it"),
    (CommitsWhenLeft, "cancelling_an_ingest_discards_it"),
    (LastCommitWins, "the_first_commit_wins"),
    (LastCommitWins, "of_many_commits_under_one_id_exactly_one_wins"),
    (KeepsBuffers, "a_buffer_may_be_reused_when_write_returns"),
    (ListsByFolder, "a_list_is_in_the_order_of_ids"),
    (ListsFromAfterOn, "a_list_goes_on_after_an_id"),
    (TakesPrefixesForFolders, "a_list_starts_with_its_prefix"),
    (ListsOnlyFullBlobs, "an_empty_blob_is_a_blob"),
    (SortsRanges, "ranges_come_in_the_order_asked"),
    (RemembersTheDead, "a_deleted_blob_is_gone"),
    (RemembersTheDead, "an_id_that_is_free_again_holds_new_bytes"),
    (DeletesOnce, "a_deleted_blob_is_gone"),
    (KeepsTheRoom, "usage_follows_what_is_stored"),
]


CHECKS = {promise.name: promise.check for promise in STORE_PROMISES}


async def check(store: BlobStore, name: str, prefix: str = "") -> None:
    await CHECKS[name](Place(store, prefix))


def test_the_suite_has_a_test_for_each_promise() -> None:
    tests = [name.removeprefix("test_") for name in vars(BlobStoreSuite) if name.startswith("test_")]
    assert tests == list(CHECKS)


@pytest.mark.parametrize(("broken", "name"), CASES)
async def test_a_broken_store_is_caught(broken: type[MemoryStore], name: str) -> None:
    await check(MemoryStore(), name)
    with pytest.raises((BrokenPromise, NotFound)):
        await check(broken(), name)


@pytest.mark.parametrize(("broken", "name"), CASES)
async def test_a_broken_store_is_caught_in_a_corner_of_it(broken: type[MemoryStore], name: str) -> None:
    """As by `imsctl store check`, beside other things."""
    corner = "checks/1/"
    if name == "usage_follows_what_is_stored":
        with pytest.raises(NotOffered):
            await check(broken(), name, corner)
        return
    with pytest.raises((BrokenPromise, NotFound)):
        await check(broken(), name, corner)


async def test_a_thread_left_behind_is_caught() -> None:
    ThreadedIngest.may_end.clear()
    try:
        with pytest.raises(BrokenPromise, match="still looks at the buffer"):
            await check(LeavesThreadsBehind(), "a_cancelled_write_lets_go_of_the_buffer")
    finally:
        ThreadedIngest.may_end.set()


async def test_a_short_read_is_caught() -> None:
    with pytest.raises(BrokenPromise, match="no error, and DataLoss was expected"):
        await check(ReadsShort(), "a_range_beyond_the_end_is_lost_data")


async def test_a_wrong_condition_is_caught() -> None:
    with pytest.raises(DataLoss):
        await check(ConfusesErrors(), "a_missing_blob_is_not_found")
