"""Writers whose store fails or hangs, and what their uploads count for meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from imsd.contract import (
    BlobId,
    Buffer,
    ImsError,
    Ingest,
    LimitExceeded,
    StoredBlob,
    Unavailable,
    run_blocking,
)
from imsd.core import upload_session
from imsd.core.file_blocks import FileRange
from imsd.core.handed_files import HandedFile
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.core.upload_session import UploadSession
from imsd.core.uploads import NewUpload, Uploads
from imsd.metadata import uploads as upload_rows
from imsd.metadata.database import Database
from imsd.testing.faulty_store import Call, Fault, FaultKind, FaultyStore
from imsd.testing.memory_store import MemoryStore
from tests.unit.core.core_world import STORE, new_id, open_runtime, pool_of

MIB = 1 << 20
PROJECT = "default"
QCOW2_START = b"QFI\xfb\x00\x00\x00\x03"
STARTS = pytest.mark.parametrize("start", [QCOW2_START, b"raw"])


def piece(start: bytes, length: int = MIB) -> bytes:
    return start + bytes(range(1, 251)) * (length // 250) + bytes(length % 250 - len(start))


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
async def runtime(database: Database, store: FaultyStore) -> AsyncIterator[Runtime]:
    async with open_runtime(database, pool_of(**{STORE: store})) as runtime:
        yield runtime


def uploads_of(runtime: Runtime, *, upload_part_bytes: int, staging_quota_bytes: int = 1 << 40) -> Uploads:
    limits = replace(
        runtime.limits, upload_part_bytes=upload_part_bytes, staging_quota_bytes=staging_quota_bytes
    )
    runtime = replace(runtime, limits=limits)
    return Uploads(runtime, Sweeper(runtime))


async def an_upload(uploads: Uploads, size_bytes: int = 0) -> str:
    key = RequestKey(PROJECT, "", new_id())
    return (await uploads.create(key, NewUpload(size_bytes=size_bytes))).id


async def one_that_hangs(runtime: Runtime, store: FaultyStore) -> tuple[Uploads, str]:
    """An upload whose first part the store takes, and then does not answer."""
    store.add(Fault(call=Call.COMMIT, kind=FaultKind.HANG))
    uploads = uploads_of(runtime, upload_part_bytes=4 * MIB)
    return uploads, await an_upload(uploads)


async def counted(runtime: Runtime) -> int:
    async with runtime.database.reading() as c:
        return await upload_rows.staged_total(c, PROJECT)


async def write_all(uploads: Uploads, upload: str, start: bytes, size: int) -> None:
    async with uploads.writing(PROJECT, upload, 0) as session:
        await send(session, start, size)
        await session.flush()
        assert session.committed_offset == size


async def send(session: UploadSession, start: bytes, size: int) -> None:
    await session.write(piece(start))
    for _ in range(size // MIB - 1):
        await session.write(piece(b""))


@pytest.mark.parametrize("part", [MIB, 2 * MIB, 4 * MIB, 8 * MIB])
async def test_a_file_as_large_as_the_quota_fits(runtime: Runtime, part: int) -> None:
    uploads = uploads_of(runtime, staging_quota_bytes=8 * MIB, upload_part_bytes=part)
    upload = await an_upload(uploads, 8 * MIB)
    async with uploads.writing(PROJECT, upload, 0) as session:
        await send(session, QCOW2_START, 8 * MIB)
        await session.flush()
        assert session.committed_offset == await counted(runtime) == 8 * MIB
    with pytest.raises(LimitExceeded):
        await write_all(uploads, await an_upload(uploads), QCOW2_START, MIB)


async def write_raw(uploads: Uploads, upload: str, content: bytes) -> None:
    async with uploads.writing(PROJECT, upload, 0) as session:
        for start in range(0, len(content), MIB):
            await session.write(content[start : start + MIB])
        await session.flush()
        assert session.committed_offset == len(content)


@pytest.mark.parametrize("part", [MIB, 2 * MIB, 4 * MIB, 8 * MIB])
async def test_a_disk_stored_while_it_comes_counts_for_what_is_new(runtime: Runtime, part: int) -> None:
    uploads = uploads_of(runtime, staging_quota_bytes=8 * MIB, upload_part_bytes=part)
    content = random.Random(1).randbytes(8 * MIB)
    upload = await an_upload(uploads, 8 * MIB)
    await write_raw(uploads, upload, content)
    assert 7 * MIB < await counted(runtime) <= 8 * MIB
    with pytest.raises(LimitExceeded):
        await write_raw(uploads, await an_upload(uploads, 8 * MIB), random.Random(2).randbytes(8 * MIB))
    assert await counted(runtime) <= 8 * MIB
    sealed = await uploads.commit(PROJECT, upload, 8 * MIB, "")
    assert 7 * MIB < sealed.staged_bytes == await counted(runtime) <= 8 * MIB


async def test_a_disk_that_is_known_takes_no_quota(runtime: Runtime) -> None:
    uploads = uploads_of(runtime, staging_quota_bytes=9 * MIB, upload_part_bytes=MIB)
    content = random.Random(1).randbytes(8 * MIB)
    for _ in range(3):
        await write_raw(uploads, await an_upload(uploads, 8 * MIB), content)
    assert await counted(runtime) <= 8 * MIB + MIB // 2


@STARTS
@pytest.mark.parametrize("part", [MIB, 4 * MIB])
async def test_never_more_than_a_part_would_be_lost(runtime: Runtime, start: bytes, part: int) -> None:
    uploads = uploads_of(runtime, upload_part_bytes=part)
    async with uploads.writing(PROJECT, await an_upload(uploads), 0) as session:
        await session.write(piece(start))
        for _ in range(24):
            await session.write(piece(b""))
            assert session.received_offset - session.committed_offset <= part


async def test_a_range_of_a_file_is_counted_before_it_is_stored(
    runtime: Runtime, store: FaultyStore, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(piece(QCOW2_START) + piece(b"") * 7)
    uploads = uploads_of(runtime, staging_quota_bytes=3 * MIB, upload_part_bytes=MIB)
    new = NewUpload(size_bytes=8 * MIB, expected_sha256="0" * 64)  # so it is staged
    upload = (await uploads.create(RequestKey(PROJECT, "", new_id()), new)).id

    async def copy() -> None:
        with HandedFile.examine(os.open(path, os.O_RDONLY)) as file:
            async with uploads.writing(PROJECT, upload, 0) as session:
                async for step in file.steps(0, runtime.pool, MIB):
                    assert isinstance(step, FileRange)
                    await session.copy(step)
                    assert await counted(runtime) <= 3 * MIB

    with pytest.raises(LimitExceeded):
        await copy()
    stored = [blob async for blob in store.list("staging/")]
    assert sum(blob.size_bytes for blob in stored) <= 3 * MIB
    assert await counted(runtime) == sum(blob.size_bytes for blob in stored)


@STARTS
@pytest.mark.parametrize("call", [Call.BEGIN, Call.WRITE, Call.COMMIT])
async def test_a_store_that_fails_takes_no_quota(
    runtime: Runtime, store: FaultyStore, start: bytes, call: Call
) -> None:
    uploads = uploads_of(runtime, upload_part_bytes=4 * MIB)
    store.add(Fault(call=call, kind=FaultKind.RAISE_BEFORE, times=None))
    with pytest.raises(Unavailable):
        await write_all(uploads, await an_upload(uploads), start, 4 * MIB)
    assert await counted(runtime) == 0


@STARTS
async def test_a_checkpoint_that_fails_is_told_with_the_next_bytes(
    runtime: Runtime, store: FaultyStore, start: bytes
) -> None:
    uploads = uploads_of(runtime, upload_part_bytes=4 * MIB)
    store.add(Fault(call=Call.COMMIT, kind=FaultKind.RAISE_BEFORE))
    upload = await an_upload(uploads)
    with pytest.raises(Unavailable):
        await write_all(uploads, upload, start, 16 * MIB)
    await write_all(uploads, upload, start, 4 * MIB)  # nothing of the first counts as stored


@STARTS
async def test_a_writer_that_goes_does_not_wait_for_a_store_that_hangs(
    runtime: Runtime, store: FaultyStore, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_session, "CLOSING_SECONDS", 0.05)
    uploads, upload = await one_that_hangs(runtime, store)
    async with asyncio.timeout(5):
        async with uploads.writing(PROJECT, upload, 0) as session:
            await send(session, start, 3 * MIB)
            while not store.hanging:  # a checkpoint runs
                await asyncio.sleep(0.01)
        assert await counted(runtime) == 0
        await write_all(uploads, upload, start, 3 * MIB)


@STARTS
async def test_who_takes_over_does_not_wait_for_a_store_that_hangs(
    runtime: Runtime, store: FaultyStore, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_session, "EVICTION_SECONDS", 0.1)
    uploads, upload = await one_that_hangs(runtime, store)
    older = asyncio.create_task(write_all(uploads, upload, start, 3 * MIB))
    async with asyncio.timeout(5):
        while not store.calls[Call.COMMIT]:
            await asyncio.sleep(0.01)
        await write_all(uploads, upload, start, 3 * MIB)
        await uploads.delete(PROJECT, upload)
    store.release()
    with pytest.raises(ImsError):
        await older
    assert await counted(runtime) == 0


class SlowCommits(MemoryStore):
    """Commits in a thread, which a cancellation does not stop, and tells when one has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    @asynccontextmanager
    async def begin(self, blob_id: BlobId) -> AsyncIterator[Ingest]:
        async with super().begin(blob_id) as ingest:
            yield SlowIngest(ingest, self.begun)


class SlowIngest(Ingest):
    def __init__(self, ingest: Ingest, begun: asyncio.Event) -> None:
        self._ingest = ingest
        self._begun = begun

    async def write(self, pieces: Sequence[Buffer]) -> None:
        await self._ingest.write(pieces)

    async def commit(self) -> StoredBlob:
        self._begun.set()
        stored = await self._ingest.commit()
        await run_blocking(time.sleep, 0.3)
        return stored


async def test_a_part_whose_writer_was_evicted_is_neither_kept_nor_counted(database: Database) -> None:
    store = SlowCommits()
    async with open_runtime(database, pool_of(**{STORE: store})) as runtime:
        uploads = uploads_of(runtime, upload_part_bytes=4 * MIB)
        upload = await an_upload(uploads)
        older = asyncio.create_task(write_all(uploads, upload, QCOW2_START, 3 * MIB))
        await store.begun.wait()
        async with uploads.writing(PROJECT, upload, 0):
            pass
        with pytest.raises(ImsError):
            await older
        await runtime.background.settle()
        assert [blob async for blob in store.list("staging/")] == []
        assert await counted(runtime) == 0


async def test_a_checkpoint_that_runs_when_the_daemon_stops_counts(database: Database) -> None:
    store = SlowCommits()
    async with open_runtime(database, pool_of(**{STORE: store})) as runtime:
        uploads = uploads_of(runtime, upload_part_bytes=4 * MIB)
        upload = await an_upload(uploads)

        async def write_and_wait() -> None:
            async with uploads.writing(PROJECT, upload, 0) as session:
                await send(session, QCOW2_START, 3 * MIB)  # a checkpoint runs
                async for _ in session.steps(nothing(), lambda: False):
                    pass

        async def nothing() -> AsyncIterator[None]:
            await asyncio.Event().wait()
            yield None

        writing = asyncio.create_task(write_and_wait())
        await store.begun.wait()
        await uploads.close()
        with pytest.raises(ImsError):
            await writing
        assert (await uploads.get(PROJECT, upload)).committed_offset == 3 * MIB == await counted(runtime)
