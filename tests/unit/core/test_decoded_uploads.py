"""Uploads in formats that are read in one pass: decoded while they arrive, never staged, resumed anywhere."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from imsd.chunks.disk_digest import digest_blocks
from imsd.chunks.staged_source import staging_prefix
from imsd.chunks.tree_digest import TreeHasher
from imsd.contract import ImageRefused, NotFound
from imsd.core import chunked_sink
from imsd.core.chunked_sink import SealedDisk
from imsd.core.decoded_sink import DecodedState
from imsd.core.requests import RequestKey
from imsd.core.runtime import Runtime
from imsd.core.sweeper import Sweeper
from imsd.core.uploads import NewUpload, Uploads
from imsd.formats.raw import RawBlocks
from imsd.formats.registry import DECODERS, open_writer
from imsd.formats.source import MemorySource
from imsd.metadata import uploads as upload_rows
from imsd.metadata.records import PartKind, UploadRecord
from tests.unit.core import many_chunks
from tests.unit.core.core_world import STORE, new_id
from tests.unit.formats.disk_files import MIB, write_file

PROJECT = "default"
FORMATS = sorted(DECODERS)
# Two blocks of noise, a hole, text and an end inside a block.
DISK = random.Random(1).randbytes(5 * MIB) + bytes(9 * MIB) + b"text " * 200_000 + bytes(31_744)
DISK += bytes(-len(DISK) % 512)


@pytest.fixture(scope="module", params=FORMATS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    writer = open_writer(request.param, RawBlocks(MemorySource(DISK)))
    return write_file(writer, tmp_path_factory.mktemp("disk") / "file").read_bytes()


async def an_upload(uploads: Uploads, **wanted: str) -> str:
    new = NewUpload(**wanted)  # type: ignore[arg-type]
    record = await uploads.create(RequestKey(PROJECT, "", new_id()), new)
    return record.id


async def send(uploads: Uploads, upload: str, file: bytes, *, until: int, step: int) -> int:
    """Go on from the committed offset to byte ``until``; returns the offset that is durable then."""
    offset = (await uploads.get(PROJECT, upload)).committed_offset
    async with uploads.writing(PROJECT, upload, offset) as session:
        for start in range(offset, until, step):
            await session.write(file[start : min(start + step, until)])
        await session.flush()
    return (await uploads.get(PROJECT, upload)).committed_offset


async def send_and_commit(uploads: Uploads, upload: str, file: bytes) -> UploadRecord:
    assert await send(uploads, upload, file, until=len(file), step=MIB) == len(file)
    return await uploads.commit(PROJECT, upload, len(file), "")


async def kinds_of_parts(runtime: Runtime, upload: str) -> set[PartKind]:
    async with runtime.database.reading() as c:
        return {part.kind for part in await upload_rows.upload_parts(c, upload)}


async def test_the_disk_is_stored_when_the_last_byte_is_in(
    runtime: Runtime, uploads: Uploads, file: bytes
) -> None:
    upload = await an_upload(uploads)
    assert await send(uploads, upload, file, until=len(file), step=300_000) == len(file)
    assert await kinds_of_parts(runtime, upload) == {PartKind.SEGMENT}
    sealed = await uploads.commit(PROJECT, upload, len(file), "")
    stored = SealedDisk.from_bytes(sealed.tree_state)
    assert stored.result.digest == digest_blocks(RawBlocks(MemorySource(DISK)))
    assert stored.result.size_bytes == len(DISK)
    whole = TreeHasher()
    whole.update(file)
    assert sealed.digest == whole.digest()


@pytest.mark.parametrize("seed", range(3))
async def test_it_goes_on_after_any_break(uploads: Uploads, file: bytes, seed: int) -> None:
    chosen = random.Random(seed)
    upload = await an_upload(uploads)
    reached = 0
    for until in sorted(chosen.sample(range(1, len(file)), 6)):
        committed = await send(
            uploads, upload, file, until=max(until, reached), step=chosen.randrange(1, MIB)
        )
        assert committed == max(until, reached)
        reached = committed
    sealed = await send_and_commit(uploads, upload, file)
    assert SealedDisk.from_bytes(sealed.tree_state).result.digest == digest_blocks(
        RawBlocks(MemorySource(DISK))
    )


async def test_a_file_that_is_cut_is_refused_and_gone(
    runtime: Runtime, uploads: Uploads, file: bytes
) -> None:
    upload = await an_upload(uploads)
    with pytest.raises(ImageRefused) as refused:
        await send_and_commit(uploads, upload, file[:-600])
    assert refused.value.reason == "IMAGE_TRUNCATED"
    with pytest.raises(NotFound):
        await uploads.get(PROJECT, upload)
    store = runtime.stores.get(STORE)
    assert [blob async for blob in store.list(staging_prefix(upload))] == []


@pytest.mark.parametrize("more", [1, 4096, 8192])
async def test_bytes_after_the_end_are_refused(uploads: Uploads, file: bytes, more: int) -> None:
    upload, longer = await an_upload(uploads), file + b"x" * more
    with pytest.raises(ImageRefused) as refused:
        await send_and_commit(uploads, upload, longer)
    assert refused.value.reason in {"IMAGE_MALFORMED", "IMAGE_TRUNCATED"}


async def test_a_run_of_zeros_where_none_can_be_ends_soon(uploads: Uploads, file: bytes) -> None:
    upload = await an_upload(uploads)
    async with uploads.writing(PROJECT, upload, 0) as session:
        await session.write(file[:200_000])
        with pytest.raises(ImageRefused):
            await session.write_zeros(1 << 39)


async def test_what_was_not_flushed_is_sent_again_from_the_last_unit(uploads: Uploads, file: bytes) -> None:
    upload = await an_upload(uploads)
    async with uploads.writing(PROJECT, upload, 0) as session:
        for start in range(0, 4 * MIB, 100_000):
            await session.write(file[start : start + 100_000])
    reached = (await uploads.get(PROJECT, upload)).committed_offset
    assert 0 < reached < 4 * MIB
    sealed = await send_and_commit(uploads, upload, file)
    assert SealedDisk.from_bytes(sealed.tree_state).result.size_bytes == len(DISK)


async def test_a_file_whose_sha256_is_to_be_checked_is_staged(
    runtime: Runtime, uploads: Uploads, file: bytes
) -> None:
    upload = await an_upload(uploads, expected_sha256="0" * 64)
    await send(uploads, upload, file, until=len(file), step=MIB)
    assert PartKind.DATA in await kinds_of_parts(runtime, upload)


async def test_a_disk_above_the_limit_is_refused_by_its_header(runtime: Runtime, file: bytes) -> None:
    limits = replace(runtime.limits, max_virtual_size_bytes=MIB)
    runtime = replace(runtime, limits=limits)
    uploads = Uploads(runtime, Sweeper(runtime))
    with pytest.raises(ImageRefused) as refused:
        await send(uploads, await an_upload(uploads), file, until=200_000, step=MIB)
    assert refused.value.reason == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize("damage", [b"", b"imsddec1", b"imsddec1" + bytes(24) + b"x"])
def test_a_state_that_is_none_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="the state of a decoded upload"):
        DecodedState.from_bytes(damage)


async def test_a_small_file_of_many_chunks_is_told_of_in_small_segments(
    runtime: Runtime, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_sink, "MAX_UNTOLD_CHUNKS", many_chunks.LIMIT)
    upload = await an_upload(uploads)
    sealed = await send_and_commit(uploads, upload, many_chunks.a_zvhd())
    told = await many_chunks.chunks_told(runtime, upload)
    assert sum(told) == many_chunks.CHUNKS
    assert max(told) <= many_chunks.LIMIT + many_chunks.UNDER_WAY
    digest = digest_blocks(RawBlocks(MemorySource(many_chunks.DISK)))
    assert SealedDisk.from_bytes(sealed.tree_state).result.digest == digest
